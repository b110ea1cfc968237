"""quantize_checkpoint: what it writes, what it refuses, and that a kill loses nothing."""

import json
import os
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import pytest
from checkpoints.folders import LAYER, SMALL, load, one_file, tree, write_json

import binq
from binq.convert import Checkpoint, logical_tensors
from binq.convert.item import Settings
from binq.convert.plan import make_plan
from binq.convert.rules import check_choice_of
from binq.convert.verify import verify
from binq.files.writer import name_room


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_a_folder_becomes_a_folder(source, tmp_path, format):
    target = tmp_path / "target"
    report = binq.quantize_checkpoint(source, target, format, group_size=32)
    tensors = load(target)
    original = dict.fromkeys(tensors)
    with Checkpoint(source) as checkpoint:
        for tensor in logical_tensors(checkpoint):
            original.pop(tensor.name)
            w = tensor.read(checkpoint)
            if tensor.quantize:
                assert tensors[tensor.name] == binq.quantize(w, format, group_size=32)
            else:
                np.testing.assert_array_equal(tensors[tensor.name], checkpoint.read(tensor.name))
    assert not original
    assert {t.name for t in report.tensors} == set(tensors)
    quantized = {t.name for t in report.tensors if not t.kept}
    assert quantized == {
        f"{LAYER}.self_attn.q_proj.weight",
        f"{LAYER}.mlp.up_proj.weight",
        f"{LAYER}.mlp.down_proj.weight",
    }
    assert not (tmp_path / "target.partial").exists()
    assert (target / "tokenizer.json").read_text() == "{}"
    assert not (target / "stray.safetensors").exists()
    assert not (target / "original").exists()
    assert list(verify(target, source)) == []


def test_index_and_config_say_what_is_there(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, "int4", rules=["*q_proj*=keep"], max_shard_bytes=9000)
    index = json.loads((target / "binq.safetensors.index.json").read_text())
    files = sorted(path.name for path in target.glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert list(index["weight_map"]) == sorted(index["weight_map"])
    stored = 0
    for file in files:
        with binq.files.SafetensorsFile(target / file) as opened:
            stored += sum(info.nbytes for info in opened.tensors.values())
            assert {name for name, f in index["weight_map"].items() if f == file} == set(opened)
    assert index["metadata"]["total_size"] == stored
    config = json.loads((target / "config.json").read_text())
    assert config["hidden_size"] == 96
    block = config["quantization_config"]
    assert block["quant_method"] == "binq"
    assert (block["format"], block["group_size"], block["rules"]) == (
        "int4",
        128,
        ["*q_proj*=keep"],
    )
    assert f"{LAYER}.self_attn.q_proj.weight" in block["kept"]


def test_the_report_measures_what_was_lost(source, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "target", "int4", group_size=64)
    tensors = load(tmp_path / "target")
    with Checkpoint(source) as checkpoint:
        logical = {tensor.name: tensor.read(checkpoint) for tensor in logical_tensors(checkpoint)}
    for t in report.tensors:
        if t.kept:
            assert t.sqnr_db is t.max_error is t.clipped is t.zero_scales is None
            continue
        w = logical[t.name].astype(np.float64)
        error = w - tensors[t.name].dequantize()
        assert t.sqnr_db == pytest.approx(10 * np.log10((w**2).sum() / (error**2).sum()), 1e-5)
        assert t.max_error == pytest.approx(np.abs(error).max())
        assert t.zero_scales == 0
        step = np.repeat(np.abs(tensors[t.name].group_scales().astype(float)), 64, axis=1)
        assert t.clipped == (np.abs(error) > 0.5000001 * step[:, : w.shape[1]]).sum()
        assert t.bytes_after == tensors[t.name].nbytes
    document = json.loads(report.to_json())
    assert (
        document["bytes_after"] == report.bytes_after == sum(t.bytes_after for t in report.tensors)
    )
    assert "SQNR" in str(report)


def test_a_dry_run_writes_nothing_and_predicts_the_sizes(source, tmp_path):
    target = tmp_path / "target"
    plan = binq.quantize_checkpoint(source, target, "ternary", dry_run=True)
    assert not target.exists()
    assert not (tmp_path / "target.partial").exists()
    done = binq.quantize_checkpoint(source, target, "ternary")
    assert [(t.name, t.bytes_after) for t in plan.tensors] == [
        (t.name, t.bytes_after) for t in done.tensors
    ]
    assert "nothing was written" in str(plan)


def test_embeddings_and_head_are_asked_for(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "a", embeddings="int4:g64")
    tensors = load(tmp_path / "a")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert (tensors[name].format, tensors[name].group_size) == ("int4", 64)
    binq.quantize_checkpoint(source, tmp_path / "b", embeddings="ternary", lm_head="keep")
    tensors = load(tmp_path / "b")
    assert tensors["model.embed_tokens.weight"].format == "ternary"
    assert isinstance(tensors["lm_head.weight"], np.ndarray)


def test_the_first_rule_that_matches_wins(source, tmp_path):
    rules = ["*.up_proj.weight=ternary:g32", "*mlp*=binary:row:absmean", "*q_proj*=keep"]
    binq.quantize_checkpoint(source, tmp_path / "target", "int4", rules=rules)
    tensors = load(tmp_path / "target")
    up, down = (tensors[f"{LAYER}.mlp.{part}_proj.weight"] for part in ("up", "down"))
    assert (up.format, up.group_size) == ("ternary", 32)
    assert (down.format, down.group_size) == ("binary", None)
    assert isinstance(tensors[f"{LAYER}.self_attn.q_proj.weight"], np.ndarray)
    assert isinstance(tensors[f"{LAYER}.mlp.up_proj.bias"], np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": ["*nothing*=keep"]}, r"rule '\*nothing\*=keep' matches no tensor"),
        ({"rules": ["*bias=int4"]}, r"rule '\*bias=int4' matches no matrix of weights"),
        ({"rules": ["*"]}, "rule '.' must be GLOB=FORMAT"),
        ({"rules": ["*=int5"]}, "format must be one of"),
        ({"rules": ["*=int4:g7"]}, "group_size must be 32"),
        ({"rules": ["*=int4:absmean"]}, "method must be one of"),
        ({"rules": ["*=ternary:asymmetric"]}, "symmetric must be True"),
        (
            {"format": "int5"},
            "format must be one of 'binary', 'ternary', 'int2', 'int3', 'int4', .*, got 'int5'",
        ),
        ({"group_size": 48}, "group_size must be 32, 64, 128, 256 or None, got 48"),
        ({"method": "best"}, "method must be one of"),
        ({"max_shard_bytes": 0}, "max_shard_bytes must be from 1"),
        ({"part": (3, 2)}, r"part\[0\] must be from 1 to 2, got 3"),
        ({"part": 3}, r"part must be \(i, n\), got 3"),
        ({"embeddings": "int5"}, "format must be one of"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(source, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        binq.quantize_checkpoint(source, tmp_path / "target", **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_nothing_of_the_users_is_overwritten_unasked(source, tmp_path):
    before = tree(source)
    with pytest.raises(ValueError, match="dst must not be the source itself"):
        binq.quantize_checkpoint(source, source, overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(source)
    with pytest.raises(ValueError, match="dst must not be the source itself"):
        binq.quantize_checkpoint(source, link, overwrite=True)
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty: overwrite=True"):
        binq.quantize_checkpoint(source, target)
    with pytest.raises(FileExistsError, match="is a file"):
        binq.quantize_checkpoint(source, target / "thesis.txt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        binq.quantize_checkpoint(source, tmp_path / "no" / "where")
    assert (target / "thesis.txt").read_text() == "years of work"
    binq.quantize_checkpoint(source, target, overwrite=True)
    assert "config.json" in tree(target)
    assert "thesis.txt" not in tree(target)
    assert tree(source) == before


def test_an_empty_folder_may_be_the_target(source, tmp_path):
    (tmp_path / "target").mkdir()
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert list(verify(tmp_path / "target")) == []


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_nonfinite_weight_names_tensor_and_rows_and_leaves_no_target(tmp_path, value):
    w = np.ones((64, 64), np.float32)
    w[40, 3] = value
    folder = one_file(tmp_path / "source", {f"{LAYER}.mlp.up_proj.weight": w})
    with pytest.raises(binq.NonFiniteError, match=r"up_proj\.weight: 1 value is .*w\[40, 3\]"):
        binq.quantize_checkpoint(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_is_not_finite_may_be_read_as_zero(tmp_path):
    w = np.random.default_rng(5).standard_normal((64, 64), dtype=np.float32)
    zeroed = w.copy()
    w[40, 3], zeroed[40, 3] = np.nan, 0
    w[41, 3], zeroed[41, 3] = np.inf, 0
    name = f"{LAYER}.mlp.up_proj.weight"
    folder = one_file(tmp_path / "source", {name: w})
    rules = ["*up_proj*=int4:g32"]
    report = binq.quantize_checkpoint(folder, tmp_path / "t", nonfinite="zero", rules=rules)
    assert load(tmp_path / "t")[name] == binq.quantize(zeroed, "int4", group_size=32)
    assert 15 < report.tensors[0].sqnr_db < 40


def test_a_number_that_float32_cannot_hold_names_the_tensor(tmp_path):
    w = np.ones((64, 64))
    w[40, 3] = 1e300
    folder = one_file(tmp_path / "source", {f"{LAYER}.mlp.up_proj.weight": w})
    with pytest.raises(ValueError, match=r"up_proj\.weight, rows from 0: .* does not fit float32"):
        binq.quantize_checkpoint(folder, tmp_path / "target")


def test_scales_beyond_float16_are_kept_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.convert.plan.BLOCK_BYTES", 1)
    monkeypatch.setattr("binq.convert.shard.BLOCK_BYTES", 1)
    rng = np.random.default_rng(1)
    w = rng.standard_normal((96, 64), dtype=np.float32)
    w[70] *= 1e7
    v = rng.standard_normal((64, 64), dtype=np.float32)
    tensors = {f"{LAYER}.mlp.up_proj.weight": w, f"{LAYER}.mlp.down_proj.weight": v}
    folder = one_file(tmp_path / "source", tensors)
    spy = Spy()
    report = binq.quantize_checkpoint(
        folder, tmp_path / "target", "int4", group_size=32, progress=spy
    )
    assert spy.done == report.bytes_before  # what is done twice is told of once
    loaded = load(tmp_path / "target")
    up, down = loaded[f"{LAYER}.mlp.up_proj.weight"], loaded[f"{LAYER}.mlp.down_proj.weight"]
    assert up.scales.dtype == np.float32
    assert up == binq.quantize(w, "int4", group_size=32, scale_dtype="float32")
    assert down == binq.quantize(v, "int4", group_size=32)


def test_any_number_of_threads_gives_the_same_bytes_and_errors(
    source, tmp_path, monkeypatch, threads
):
    monkeypatch.setattr("binq.convert.shard.BLOCK_BYTES", 1)
    trees, errors = [], []
    for count in (1, 2, 5):
        binq.set_num_threads(count)
        report = binq.quantize_checkpoint(source, tmp_path / f"target{count}", "int4")
        trees.append(tree(tmp_path / f"target{count}"))
        errors.append([(t.sqnr_db, t.max_error, t.clipped) for t in report.tensors])
    assert trees[0] == trees[1] == trees[2]
    assert errors[0] == errors[1] == errors[2]


def test_the_first_bad_block_is_named_though_later_ones_were_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.convert.shard.BLOCK_BYTES", 1)
    w = np.ones((320, 64), np.float32)
    w[[70, 100, 300], 5] = np.nan
    folder = one_file(tmp_path / "source", {f"{LAYER}.mlp.up_proj.weight": w})
    with pytest.raises(binq.NonFiniteError, match=r"up_proj\.weight: .*w\[70, 5\] = nan"):
        binq.quantize_checkpoint(folder, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_stacks_of_experts_are_streamed_matrix_by_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.convert.plan.BLOCK_BYTES", 1)
    monkeypatch.setattr("binq.convert.shard.BLOCK_BYTES", 1)
    folder = tmp_path / "source"
    folder.mkdir()
    w = np.random.default_rng(2).standard_normal((3, 70, 40), dtype=np.float32)
    name = "model.language_model.layers.0.experts.gate_up_proj"
    binq.save_file({name: w}, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "gemma4", "text_config": {}})
    binq.quantize_checkpoint(folder, tmp_path / "target", "ternary", group_size=32)
    assert load(tmp_path / "target")[name] == binq.quantize(w, "ternary", group_size=32)


class Spy:
    def __init__(self):
        self.done = 0

    def __call__(self, nbytes):
        assert nbytes >= 0
        self.done += nbytes


def test_progress_adds_up_to_the_source(source, tmp_path):
    spy = Spy()
    report = binq.quantize_checkpoint(source, tmp_path / "target", progress=spy)
    assert spy.done == report.bytes_before


def test_parts_make_a_whole(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    target = tmp_path / "parts"
    for i in (2, 1):
        binq.quantize_checkpoint(source, target, part=(i, 3), **SMALL)
        assert not target.exists()
    with pytest.raises(ValueError, match="shards are not done yet: model-00003"):
        binq.quantize_checkpoint(source, target, finalize=True, **SMALL)
    binq.quantize_checkpoint(source, target, part=(3, 3), **SMALL)
    report = binq.quantize_checkpoint(source, target, finalize=True, **SMALL)
    assert len(report.tensors) == 8
    assert tree(target) == tree(tmp_path / "alone")


def test_two_converters_do_not_share_a_target(source, tmp_path):
    partial = tmp_path / "target.partial"
    partial.mkdir()
    (partial / "binq-conversion.lock").write_text("elsewhere 1")
    with pytest.raises(FileExistsError, match="process 1 on elsewhere works there"):
        binq.quantize_checkpoint(source, tmp_path / "target")


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_exits_with_130_and_leaves_no_target(source, tmp_path):
    target = tmp_path / "target"
    command = [sys.executable, "-m", "binq", "quantize", str(source), str(target)]
    code = textwrap.dedent(f"""
        import sys
        import binq.convert.shard as shard
        def interrupted(*arguments):
            raise KeyboardInterrupt
        shard._quantize = interrupted
        from binq.cli import main
        sys.exit(main({command[3:]!r}))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert not target.exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_plan_fills_shards_in_order(source):
    with Checkpoint(source) as checkpoint:
        plan = make_plan(checkpoint, Settings(check_choice_of("int4"), max_shard_bytes=20_000))
        assert [item for shard in plan.shards for item in shard] == list(plan.items)
        for shard in plan.shards:
            nbytes = [item.bytes_after(checkpoint) for item in shard]
            assert sum(nbytes) <= 20_000 or len(nbytes) == 1


def test_a_header_never_grows_beyond_what_is_read(source, monkeypatch):
    monkeypatch.setattr("binq.convert.plan.MAX_HEADER", 5000)
    with Checkpoint(source) as checkpoint:
        plan = make_plan(checkpoint, Settings(check_choice_of("int4")))
    assert [item for shard in plan.shards for item in shard] == list(plan.items)
    assert len(plan.shards) > 2
    # Each is as full as it may be.
    rooms = [[sum(map(name_room, item.output_names)) for item in shard] for shard in plan.shards]
    for shard, following in pairwise(rooms):
        assert sum(shard) <= 2500 < sum(shard) + following[0]


def test_a_scale_too_large_in_a_late_block_begins_the_tensor_anew(tmp_path, monkeypatch):
    """Blocks that run ahead have float16 scales by then: none of them may be taken."""
    monkeypatch.setattr("binq.convert.shard.BLOCK_BYTES", 32 * 64 * 4)
    w = np.random.default_rng(2).standard_normal((32 * 12, 64), dtype=np.float32)
    w[32 * 4] *= 1e7
    name = "model.layers.0.mlp.up_proj.weight"
    folder = one_file(tmp_path / "source", {name: w})
    binq.quantize_checkpoint(folder, tmp_path / "target", "int4", group_size=32)
    with pytest.warns(binq.ScaleRangeWarning):
        assert load(tmp_path / "target")[name] == binq.quantize(w, "int4", group_size=32)


def test_only_the_bytes_of_this_run_count_as_its_speed(source, tmp_path):
    target = tmp_path / "target"
    first = binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    second = binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    assert 0 < first.bytes_done < second.bytes_before
    assert first.bytes_done + second.bytes_done == second.bytes_before


def test_conversion_uses_the_time_it_says(source, tmp_path):
    start = time.perf_counter()
    report = binq.quantize_checkpoint(source, tmp_path / "target")
    assert 0 < report.seconds <= time.perf_counter() - start
    assert sum(t.seconds for t in report.tensors) <= report.seconds
