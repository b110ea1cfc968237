"""The binq command: what it prints, what it refuses, its exit codes."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import safetensors.numpy

import binq
from binq import cli


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        "model.layers.0.mlp.up_proj.weight": rng.standard_normal((70, 96), dtype=np.float32),
        "model.norm.weight": np.ones(96, np.float32),
    }
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def commands():
    text = run_help()
    return re.findall(r"^    (\w+)\b", text, re.MULTILINE)


def run_help(*words):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
        run(*words, "--help")
    assert ended.value.code == 0
    return output.getvalue()


def test_every_command_has_help_with_a_line_for_each_option_and_an_example():
    assert {"quantize", "dequantize", "inspect", "verify", "bench", "selftest"} <= set(commands())
    for command in commands():
        text = run_help(command)
        assert f"example:\n  binq {command}" in text
        described = text[text.index("options:") :]
        for option in re.findall(r"--[a-z-]+", text[: text.index("options:")]):
            assert option in described
        assert "..." not in described


def test_quantize_inspect_verify(source, tmp_path, capsys):
    target = tmp_path / "target"
    assert run("quantize", source, target, "--format", "ternary", "--group-size", "32") == 0
    out = capsys.readouterr().out
    assert "ternary g32" in out
    assert "SQNR" in out
    assert run("inspect", target) == 0
    assert "ternary g32" in capsys.readouterr().out
    assert run("inspect", target, "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [e["format"] for e in entries] == ["ternary g32", "F32"]
    assert run("verify", target, "--against", source) == 0
    assert capsys.readouterr().out.endswith(": ok\n")


def test_the_report_may_be_one_json_document_and_a_picture(source, tmp_path, capsys):
    picture = tmp_path / "report.png"
    pytest.importorskip("matplotlib")
    assert run("quantize", source, tmp_path / "t", "--json", "--plot", picture) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tensors"][0]["format"] == "int4 g128"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_shows_the_plan(source, tmp_path, capsys):
    assert run("quantize", source, tmp_path / "t", "--dry-run", "--rule", "*up*=binary:row") == 0
    out = capsys.readouterr().out
    assert "binary row" in out
    assert "nothing was written" in out
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("options", "zero"),
    [
        (("--no-symmetric",), "code"),
        (("--asymmetric",), "code"),
        (("--no-symmetric", "--zero", "offset"), "offset"),
    ],
)
def test_where_zero_lies_is_said_as_in_python(source, tmp_path, capsys, options, zero):
    assert run("quantize", source, tmp_path / "t", *options) == 0
    wanted = tmp_path / "wanted"
    binq.quantize_checkpoint(source, wanted, symmetric=False, zero=zero)
    assert {p.name: p.read_bytes() for p in (tmp_path / "t").glob("*.safetensors")} == {
        p.name: p.read_bytes() for p in wanted.glob("*.safetensors")
    }
    capsys.readouterr()


def test_parts_and_finalize(source, tmp_path, capsys):
    target = tmp_path / "t"
    assert run("quantize", source, target, "--part", "1/1") == 0
    assert not target.exists()
    assert run("quantize", source, target, "--finalize") == 0
    assert run("verify", target) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["quantize", "only-one"],
        ["quantize", "a", "", "--overwrite"],
        ["verify", ""],
        ["quantize", "a", "b", "--format", "int5"],
        ["quantize", "a", "b", "--group-size", "33"],
        ["quantize", "a", "b", "--group-size", "many"],
        ["quantize", "a", "b", "--method", "absmean"],
        ["quantize", "a", "b", "--rule", "nonsense"],
        ["quantize", "a", "b", "--part", "x"],
        ["quantize", "a", "b", "--part", "0/2"],
        ["quantize", "a", "b", "--part", "3/2"],
        ["quantize", "a", "b", "--part", "1/2", "--finalize"],
        ["quantize", "a", "b", "--embeddings", "int5"],
        ["quantize", "a", "b", "--lm-head", "int4:g7"],
        ["quantize", "a", "b", "--max-shard-size", "big"],
        ["bench", "--features", "0"],
        ["quantize", "a", "b", "--max-shard-size", "inf"],
        ["quantize", "a", "b", "--max-shard-size", "0"],
        ["quantize", "a", "b", "--plot", "report.txt"],
        ["quantize", "a", "b", "--plot", "no/such/folder/report.png"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_wrong_usage_says_what_is_allowed(capsys):
    for arguments, message in (
        (["--part", "3"], "argument --part: must be I/N with I from 1 to N, got '3'"),
        (["--group-size", "x"], "argument --group-size: must be a number or 'row', got 'x'"),
        (["--max-shard-size", "0"], "must be a number of GB above 0, got '0'"),
        (["--embeddings", "int5"], "--embeddings 'int5': format must be one of"),
    ):
        with pytest.raises(SystemExit):
            run("quantize", "a", "b", *arguments)
        assert message in capsys.readouterr().err


def test_failures_exit_with_1_and_say_why(source, tmp_path, capsys):
    assert run("quantize", tmp_path / "nowhere", tmp_path / "t") == 1
    assert run("quantize", source, source) == 1
    assert "dst must not be the source itself" in capsys.readouterr().err
    assert run("inspect", tmp_path / "nowhere.safetensors") == 1
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"short")
    assert run("inspect", bad) == 1
    assert "not a safetensors file" in capsys.readouterr().err


def test_verify_finds_every_flipped_bit(source, tmp_path, capsys):
    target = tmp_path / "target"
    assert run("quantize", source, target) == 0
    file = next(target.glob("*.safetensors"))
    good = file.read_bytes()
    rng = np.random.default_rng(3)
    length = int.from_bytes(good[:8], "little")
    for at in (8 + length + rng.integers(0, len(good) - 8 - length, 60)).tolist():
        damaged = bytearray(good)
        damaged[at] ^= 1 << int(rng.integers(0, 8))
        file.write_bytes(damaged)
        assert run("verify", target) == 1
        assert "its bytes are not those that were written" in capsys.readouterr().out
    file.write_bytes(good)
    assert run("verify", target) == 0


def test_verify_compares_with_the_source(source, tmp_path, capsys):
    target = tmp_path / "target"
    assert run("quantize", source, target) == 0
    rng = np.random.default_rng(9)
    tensors = {
        "model.layers.0.mlp.up_proj.weight": rng.standard_normal((70, 96), dtype=np.float32),
        "model.norm.weight": np.zeros(96, np.float32),
    }
    binq.save_file(tensors, source / "model.safetensors")
    capsys.readouterr()
    assert run("verify", target, "--against", source) == 1
    out = capsys.readouterr().out
    assert "not the source's weights" in out
    assert "model.norm.weight: differs from" in out


def test_verify_says_ok_of_nothing_else(tmp_path, capsys):
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": np.arange(3)}, path)
    assert run("verify", path) == 0
    assert capsys.readouterr().out == f"{path}: ok\n"
    safetensors.numpy.save_file({"a": np.arange(3)}, path)
    assert run("verify", path) == 1
    assert f"{path}: not a binq file" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert run("verify", tmp_path / "empty") == 1
    assert run("verify", tmp_path / "nowhere") == 1


def test_selftest_passes(capsys):
    assert run("selftest") == 0
    assert "integer products are exact" in capsys.readouterr().out


def test_selftest_fails_where_products_differ(capsys, monkeypatch):
    monkeypatch.setattr("binq.selftest.EXPECTED", "0")
    assert run("selftest") == 1
    assert "DIFFER" in capsys.readouterr().out


def test_bench_prints_a_table(capsys):
    assert run("bench", "--features", "64") == 0
    assert "int4 int16" in capsys.readouterr().out


def test_the_module_and_the_version_run():
    done = subprocess.run(
        [sys.executable, "-m", "binq", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"binq {binq.__version__}")


def test_a_picture_needs_matplotlib_and_says_so_first(monkeypatch, capsys):
    monkeypatch.setattr("binq.cli.arguments.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        run("quantize", "a", "b", "--plot", "report.png")
    assert caught.value.code == 2
    assert "pip install 'binq[plot]'" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("binq.convert.inspect.inspect", interrupted)
    assert run("inspect", "anything") == 130
    assert capsys.readouterr().err == "binq: interrupted\n"
    monkeypatch.setattr("binq.convert.quantize_checkpoint", interrupted)
    assert run("quantize", "a", "b") == 130
    assert "--resume goes on with finished shards" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="needs pipes")
@pytest.mark.parametrize("damage", [False, True])
def test_the_exit_code_is_that_of_the_work_though_nobody_reads(source, tmp_path, damage):
    target = tmp_path / "target"
    assert run("quantize", source, target) == 0
    if damage:
        file = next(target.glob("*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "binq", "verify", str(target)], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (int(damage), b"")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_is_told_of_with_the_file(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    w = {"model.layers.0.mlp.up_proj.weight": np.ones((512, 4096), np.float16)}
    binq.save_file(w, source / "model.safetensors")
    (source / "config.json").write_text('{"model_type": "qwen3"}')
    code = f"""
        import resource, sys
        from binq.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        sys.exit(main(["quantize", {str(source)!r}, {str(tmp_path / "t")!r}, "--rule", "*=keep"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert re.search(r"File too large: .*model-00001-of-00001.*writing at byte \d+", done.stderr)
    assert not list(tmp_path.rglob("*.tmp"))


def test_matrices_that_no_family_knows_are_told_of(source, tmp_path, capsys):
    name = "model.layers.0.mystery.weight"
    binq.save_file({name: np.ones((40, 40), np.float32)}, source / "model.safetensors")
    assert run("quantize", source, tmp_path / "t", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tensors"][0]["kept"]
    assert f"1 matrix (6.40 kB) was kept as it is, '{name}': not a tensor" in captured.err
