"""target_bpw and target_bytes: the least sum of errors that fits, as trying everything finds."""

import itertools
import json

import hypothesis.strategies as st
import numpy as np
import pytest
from checkpoints.folders import one_file
from hypothesis import given

import binq
from binq.array.packing import Packing
from binq.cli import main
from binq.convert.budget import Option, choose, options_of

LAYERS = 6


@given(
    sizes=st.lists(
        st.lists(st.tuples(st.integers(1, 60), st.integers(0, 1000)), min_size=1, max_size=4),
        min_size=1,
        max_size=5,
    ),
    more=st.integers(0, 150),
)
def test_no_choice_is_better(sizes, more):
    options = [[Option(Packing("int4"), size, error / 7) for size, error in each] for each in sizes]
    budget = sum(min(o.nbytes for o in each) for each in options) + more
    chosen = choose(options, budget)
    assert all(option in each for option, each in zip(chosen, options, strict=True))
    assert sum(o.nbytes for o in chosen) <= budget
    best = min(
        sum(o.error for o in each)
        for each in itertools.product(*options)
        if sum(o.nbytes for o in each) <= budget
    )
    assert sum(o.error for o in chosen) == pytest.approx(best)


def test_a_budget_below_the_smallest():
    with pytest.raises(ValueError, match="the smallest that can be is 10 bytes, more than 9"):
        choose([[Option(Packing("int4"), 10, 0.0)]], 9)


def test_many_tensors_of_odd_sizes_stay_within_the_budget():
    """Where sizes have no common unit, they are rounded up, never down."""
    rng = np.random.default_rng(0)
    options = [
        [Option(Packing("int4"), int(size), 1 / size) for size in sorted(rng.integers(1e6, 9e8, 6))]
        for _ in range(200)
    ]
    least = sum(o[0].nbytes for o in options)
    most = sum(o[-1].nbytes for o in options)
    budget = least + (most - least) // 3
    chosen = choose(options, budget)
    assert 0.99 * budget < sum(o.nbytes for o in chosen) <= budget


def test_options_get_better_with_their_size():
    w = np.random.default_rng(1).standard_normal((70, 256), dtype=np.float32)
    options = options_of((70, 256), lambda matrix, start, stop: w[start:stop], None)
    assert [o.nbytes for o in options] == sorted({o.nbytes for o in options})
    errors = [o.error for o in options]
    assert errors == sorted(errors, reverse=True)
    assert {o.packing.bits for o in options} >= {2, 4}
    for option in options:
        q = binq.quantize(w, option.packing.format, group_size=option.packing.group_size)
        exact = float(np.square(q.dequantize() - w).sum() / np.square(w).sum())
        assert option.error == pytest.approx(exact, rel=0.1)
        assert option.nbytes == q.nbytes


@pytest.fixture
def source(tmp_path):
    """Layers that are hard to quantize, with a few large weights a row, and easy ones."""
    rng = np.random.default_rng(2)
    tensors = {"model.embed_tokens.weight": rng.standard_normal((40, 256)).astype(np.float16)}
    for n in range(LAYERS):
        w = rng.standard_normal((128, 256))
        if n % 2:
            w *= np.exp(1.5 * rng.standard_normal(w.shape))
        tensors[f"model.layers.{n}.mlp.up_proj.weight"] = w.astype(np.float16)
    return one_file(tmp_path / "source", tensors)


def packed_of(report):
    return [t for t in report.tensors if not t.kept]


def test_bits_a_weight(source, tmp_path):
    sizes, formats = [], set()
    for target in (2.2, 2.75, 3.3, 4.2, 4.5, 30):
        report = binq.quantize_checkpoint(source, tmp_path / "out", target_bpw=target, dry_run=True)
        packed = packed_of(report)
        bits = 8 * sum(t.bytes_after for t in packed) / (LAYERS * 128 * 256)
        assert bits <= target
        sizes.append(bits)
        formats |= {t.format for t in packed}
    assert sizes == sorted(sizes)
    # What can be used is used.
    assert sizes[2] > 3
    assert len(formats) > 2


def test_better_than_one_format_for_all_of_the_same_size(source, tmp_path):
    def error(report):
        return sum(10 ** (-t.sqnr_db / 10) for t in packed_of(report))

    for group, bits in ((32, 4.5), (64, 4.25)):
        uniform = binq.quantize_checkpoint(source, tmp_path / f"u{group}", group_size=group)
        report = binq.quantize_checkpoint(source, tmp_path / f"t{group}", target_bpw=bits)
        assert report.bytes_after <= uniform.bytes_after
        assert error(report) <= error(uniform)
    assert binq.load(tmp_path / "t64").keys() == binq.load(source).keys()


def test_bytes_of_the_whole_folder(source, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "out", target_bytes=90_000)
    stored = sum(t.bytes_after for t in report.tensors)
    assert 85_000 < stored <= 90_000


def test_rules_decide_first(source, tmp_path):
    rule = "model.layers.0.*=ternary:g32"
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3, rules=[rule], dry_run=True
    )
    packed = {t.name: t.format for t in packed_of(report)}
    assert packed["model.layers.0.mlp.up_proj.weight"] == "ternary g32"
    assert not any(f.startswith("ternary") for n, f in packed.items() if ".0." not in n)


def test_what_is_known_of_the_inputs_counts(source, tmp_path):
    """A layer of which only the easy inputs matter needs fewer bits."""
    cal = binq.Calibrator()
    rng = np.random.default_rng(3)
    for n in range(LAYERS):
        cal.update(f"model.layers.{n}.mlp.up_proj.weight", rng.standard_normal((400, 256)))
    cal.save(tmp_path / "cal.safetensors")
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", target_bpw=3.3, calibration=tmp_path / "cal.safetensors"
    )
    assert 8 * sum(t.bytes_after for t in packed_of(report)) <= 3.3 * LAYERS * 128 * 256
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (settings["target_bpw"], settings["method"]) == (3.3, "gptq")


def test_the_same_plan_each_time(source, tmp_path, threads):
    formats = []
    for count in (1, 3):
        binq.set_num_threads(count)
        report = binq.quantize_checkpoint(source, tmp_path / "o", target_bpw=3.3, dry_run=True)
        formats.append([t.format for t in report.tensors])
    assert formats[0] == formats[1]


def test_command_line(source, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["quantize", str(source), out, "--target-bpw", "3.3", "--dry-run", "--json"]) == 0
    formats = {t["format"] for t in json.loads(capsys.readouterr().out)["tensors"]}
    assert any(f.startswith("int2") for f in formats)
    arguments = ["quantize", str(source), out, "--target-bytes", "90kB", "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert sum(t["bytes_after"] for t in report["tensors"]) <= 90_000
    for wrong in ("4GX", "-1", ""):
        with pytest.raises(SystemExit):
            main(["quantize", str(source), out, "--target-bytes", wrong])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target_bpw": 1.5}, ValueError, r"target_bpw must be at least 2\.\d+ here, got 1.5"),
        ({"target_bytes": 100}, ValueError, r"target_bytes must be at least \d+ here, got 100"),
        ({"target_bpw": 3, "target_bytes": 9}, ValueError, "target_bpw must be None where"),
        ({"target_bpw": "3"}, TypeError, "target_bpw must be a number, got '3'"),
        ({"target_bpw": True}, TypeError, "target_bpw must be a number, got True"),
        ({"target_bpw": float("nan")}, ValueError, "target_bpw must be a number of bits above 0"),
        ({"target_bytes": 1.5}, TypeError, "target_bytes must be an integer, got 1.5"),
        ({"target_bpw": 3, "symmetric": False}, ValueError, "symmetric must be True with a target"),
        ({"target_bpw": 3, "rules": ["*=keep"]}, ValueError, "no tensor is free to choose from"),
    ],
)
def test_what_is_refused(source, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        binq.quantize_checkpoint(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
