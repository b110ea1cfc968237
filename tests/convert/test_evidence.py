"""quantize_checkpoint with importance= and calibration=: as quantize has them, tensor by tensor."""

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints.fixtures import gguf_file
from checkpoints.folders import LAYER, load, one_file, tree

import binq
from binq.cli import main
from binq.convert.verify import verify
from binq.methods import Moments

Q, UP, DOWN = (
    f"{LAYER}.{name}.weight" for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
)
BIAS = f"{LAYER}.mlp.up_proj.bias"


def rows(columns, seed, count=300):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((columns, columns)) * np.exp(rng.standard_normal(columns))
    return (rng.standard_normal((count, columns)) @ mixing + 2).astype(np.float32)


@pytest.fixture
def cal():
    result = binq.Calibrator()
    for seed, (name, columns) in enumerate({Q: 96, UP: 96, DOWN: 130}.items()):
        result.update(name, rows(columns, seed))
    return result


@pytest.fixture
def calibration(cal, tmp_path):
    cal.save(tmp_path / "cal.safetensors")
    return tmp_path / "cal.safetensors"


def imatrix(path, squares, counts=7.0):
    """Writes mean squares as llama.cpp stores them."""
    tensors = {}
    for name, values in squares.items():
        values = np.atleast_2d(values).astype(np.float32)
        many = np.broadcast_to(np.asarray(counts, np.float32), (len(values),)).reshape(-1, 1)
        tensors[f"{name}.in_sum2"] = (0, values.shape, (values * many).tobytes())
        tensors[f"{name}.counts"] = (0, many.shape, many.astype(np.float32).tobytes())
    path.write_bytes(gguf_file({"general.type": "imatrix"}, tensors))
    return path


def source_weight(source, name):
    files = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    return binq.load_file(source / files[name])[name]


def test_calibrated_weights_and_their_biases(source, calibration, cal, tmp_path):
    report = binq.quantize_checkpoint(source, tmp_path / "out", calibration=calibration)
    made = load(tmp_path / "out")
    for name in (Q, DOWN):
        w = source_weight(source, name)
        assert made[name] == binq.quantize(w, "int4", method="gptq", stats=cal[name])
    w, bias = source_weight(source, UP), source_weight(source, BIAS)
    q, correction = binq.quantize(w, "int4", method="gptq", stats=cal[UP], return_bias=True)
    assert made[UP] == q
    assert made[BIAS].dtype == ml_dtypes.bfloat16
    expected = (bias.astype(np.float64) + correction).astype(ml_dtypes.bfloat16)
    assert made[BIAS].tobytes() == expected.tobytes()
    reasons = {t.name: t.reason for t in report.tensors}
    assert reasons[BIAS] == f"corrected for {UP}"
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert settings["method"] == "gptq"
    assert settings["calibration"] == "cal.safetensors"
    assert settings["corrected"] == {BIAS: UP}
    assert list(verify(tmp_path / "out", source)) == []


def test_verify_sees_weights_that_are_not_the_source(source, calibration, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "out", calibration=calibration)
    other = load(tmp_path / "out")
    w = np.random.default_rng(9).standard_normal(other[Q].shape, dtype=np.float32)
    for path in (tmp_path / "out").glob("*.safetensors"):
        tensors = binq.load_file(path)
        if Q in tensors:
            binq.save_file(tensors | {Q: binq.quantize(w, "int4")}, path)
    assert any(
        line.startswith(f"{Q}: not the source's") for line in verify(tmp_path / "out", source)
    )


@pytest.mark.parametrize("shard", [300, 9000])
def test_every_way_gives_the_same_bytes(source, calibration, tmp_path, shard, threads):
    options = {"format": "ternary", "calibration": calibration, "max_shard_bytes": shard}
    binq.set_num_threads(1)
    binq.quantize_checkpoint(source, tmp_path / "one", **options)
    binq.set_num_threads(3)
    binq.quantize_checkpoint(source, tmp_path / "two", **options)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        binq.quantize_checkpoint(source, tmp_path / "three", executor=pool, **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "three")


def test_rules_choose_the_method(source, calibration, tmp_path):
    binq.quantize_checkpoint(
        source,
        tmp_path / "out",
        calibration=calibration,
        rules=[f"{Q}=int4:mse", "*down_proj*=ternary:g32"],
        embeddings="int4:g32",
    )
    made = load(tmp_path / "out")
    assert made[Q] == binq.quantize(source_weight(source, Q), "int4")
    assert made[DOWN].format == "ternary"
    # Nobody sees what enters an embedding.
    w = source_weight(source, "lm_head.weight")
    assert made["lm_head.weight"] == binq.quantize(w, "int4", group_size=32)


def test_importance_of_a_calibration(source, calibration, cal, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "out", importance=calibration)
    made = load(tmp_path / "out")
    for name in (Q, UP, DOWN):
        w = source_weight(source, name)
        assert made[name] == binq.quantize(w, "int4", importance=cal[name].mean_square)
        assert made[name] != binq.quantize(w, "int4")
    assert made[BIAS].tobytes() == source_weight(source, BIAS).tobytes()
    assert list(verify(tmp_path / "out", source)) == []


def test_importance_of_an_imatrix(source, tmp_path):
    """llama.cpp has names of its own; they are found."""
    rng = np.random.default_rng(0)
    squares = {
        "blk.0.attn_q.weight": rng.random(96).astype(np.float32),
        UP: rng.random(96).astype(np.float32),
    }
    file = imatrix(tmp_path / "im.gguf", squares)
    report = binq.quantize_checkpoint(source, tmp_path / "out", importance=file)
    made = load(tmp_path / "out")
    for name, values in zip((Q, UP), squares.values(), strict=True):
        means = (values * np.float32(7)).astype(np.float64) / 7
        expected = binq.quantize(source_weight(source, name), "int4", importance=means)
        assert made[name] == expected
    assert made[DOWN] == binq.quantize(source_weight(source, DOWN), "int4")
    assert any(DOWN in note and "count alike" in note for note in report.notes)


def test_importance_of_experts(tmp_path):
    """Each expert has its own; one that was never chosen has none, and all its inputs count."""
    rng = np.random.default_rng(1)
    name = "model.layers.0.mlp.experts.{}.up_proj.weight"
    weights = {name.format(i): rng.standard_normal((40, 64), dtype=np.float32) for i in range(3)}
    source = one_file(tmp_path / "source", weights)
    config = {"model_type": "qwen3_moe"}
    (source / "config.json").write_text(json.dumps(config))
    squares = rng.random((3, 64)).astype(np.float32)
    file = imatrix(
        tmp_path / "im.gguf", {"blk.0.ffn_up_exps.weight": squares}, counts=[1.0, 1.0, 0.0]
    )
    binq.quantize_checkpoint(source, tmp_path / "out", importance=file)
    made = load(tmp_path / "out")
    for i in (0, 1):
        w = weights[name.format(i)]
        assert made[name.format(i)] == binq.quantize(w, "int4", importance=squares[i])
    assert made[name.format(2)] == binq.quantize(weights[name.format(2)], "int4")


def test_command_line(source, calibration, cal, tmp_path, capsys):
    arguments = [str(source), str(tmp_path / "out"), "--calibration", str(calibration)]
    assert main(["quantize", *arguments]) == 0
    w = source_weight(source, DOWN)
    assert load(tmp_path / "out")[DOWN] == binq.quantize(w, "int4", method="gptq", stats=cal[DOWN])
    assert (
        main(["quantize", str(source), str(tmp_path / "b"), "--importance", str(calibration)]) == 0
    )
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0
    capsys.readouterr()
    assert main(["quantize", str(source), str(tmp_path / "c"), "--method", "gptq"]) == 1
    assert "calibration (--calibration) must be given for method 'gptq'" in capsys.readouterr().err


def test_another_calibration_is_another_conversion(source, calibration, cal, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "out", calibration=calibration)
    cal.update(Q, rows(96, 50))
    cal.save(calibration)
    with pytest.raises(FileExistsError, match="is not empty"):
        binq.quantize_checkpoint(source, tmp_path / "out", calibration=calibration, resume=True)


def test_a_dry_run_plans_and_does_not_calibrate(source, calibration, tmp_path):
    plain = binq.quantize_checkpoint(source, tmp_path / "out", dry_run=True)
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", calibration=calibration, dry_run=True
    )
    assert report.bytes_after == plain.bytes_after
    assert sorted(t.name for t in report.tensors) == sorted(t.name for t in plain.tensors)
    assert not Path(tmp_path / "out").exists()


def test_what_is_refused(source, calibration, tmp_path):
    def refused(error, message, **options):
        with pytest.raises(error, match=message):
            binq.quantize_checkpoint(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    file = imatrix(tmp_path / "im.gguf", {UP: np.ones(96)})
    refused(ValueError, "calibration .* must be given for method 'gptq'", method="gptq")
    refused(
        ValueError, "must be None where no method uses it", calibration=calibration, method="mse"
    )
    refused(
        ValueError,
        "is an imatrix, which has no covariances",
        calibration=file,
        rules=[f"{Q}=int4:mse", f"{DOWN}=int4:mse"],
    )
    refused(ValueError, f"has no rows of '{Q}'", calibration=file)
    refused(
        ValueError,
        "method must not be 'gptq' for format 'binary'",
        format="binary",
        calibration=calibration,
    )
    refused(FileNotFoundError, "nothing.gguf", importance=tmp_path / "nothing.gguf")
    refused(TypeError, "importance must be a str", importance=3)
    other = imatrix(tmp_path / "other.gguf", {"blk.9.attn_q.weight": np.ones(96)})
    refused(ValueError, "knows none of the 3 tensors that are quantized", importance=other)
    narrow = imatrix(tmp_path / "narrow.gguf", {UP: np.ones(95)})
    refused(binq.FormatError, "must have 96 inputs and matrix 0", importance=narrow)


def test_a_calibration_that_does_not_fit_is_named(source, cal, tmp_path):
    for x, message in (
        (
            rows(97, 5),
            r"calibration: '.*up_proj.weight' of .*other.safetensors: .* shape \(96, 96\)",
        ),
        (rows(96, 5)[:1], r"calibration: '.*up_proj.weight' of .*: stats.count must be 2 or more"),
    ):
        other = binq.Calibrator()
        for name in (Q, DOWN):
            other.update(name, rows(96 if name == Q else 130, 1))
        other.update(UP, x)
        other.save(tmp_path / "other.safetensors")
        for options in ({}, {"target_bpw": 4}):
            with pytest.raises(ValueError, match=message):
                binq.quantize_checkpoint(
                    source, tmp_path / "out", calibration=tmp_path / "other.safetensors", **options
                )
        with pytest.raises(ValueError, match=message.replace("calibration", "importance")):
            binq.quantize_checkpoint(
                source, tmp_path / "out", importance=tmp_path / "other.safetensors"
            )


def test_a_mean_whose_square_float32_does_not_hold(cal):
    """All other inputs are of no importance beside it; nothing overflows."""
    parts = {name: cal[name] for name in cal}
    mean = parts[UP].mean.copy()
    mean[5] = 1e30
    parts[UP] = Moments(parts[UP].covariance, mean, parts[UP].count)
    square = parts[UP].mean_square
    assert square[5] == np.finfo(np.float32).max
    np.testing.assert_array_equal(square[:5], cal[UP].mean_square[:5])


def test_few_rows_are_told_of(source, calibration, tmp_path):
    other = binq.Calibrator()
    for name, columns, count in ((Q, 96, 300), (UP, 96, 95), (DOWN, 130, 129)):
        other.update(name, rows(columns, 1, count))
    other.save(tmp_path / "few.safetensors")
    report = binq.quantize_checkpoint(
        source, tmp_path / "out", calibration=tmp_path / "few.safetensors", dry_run=True
    )
    (note,) = [text for text in report.warnings if text.startswith("calibration:")]
    assert "saw fewer rows than there are inputs" in note
    assert f"{UP} (95 rows, 96 inputs)" in note
    assert DOWN in note
    assert Q not in note
    enough = binq.quantize_checkpoint(
        source, tmp_path / "out", calibration=calibration, dry_run=True
    )
    assert not any(text.startswith("calibration:") for text in enough.warnings)


def test_files_that_are_no_imatrix(source, tmp_path):
    good = {
        f"{UP}.in_sum2": (0, (1, 96), np.ones(96, np.float32).tobytes()),
        f"{UP}.counts": (0, (1, 1), np.ones(1, np.float32).tobytes()),
    }
    metadata = {"general.type": "imatrix"}
    bad = np.ones(96, np.float32)
    bad[3] = -1
    for tensors, described, message in (
        (good, {"general.type": "model"}, "general.type must be 'imatrix', got 'model'"),
        ({}, metadata, "no tensor NAME.in_sum2"),
        ({f"{UP}.in_sum2": good[f"{UP}.in_sum2"]}, metadata, "is missing: float32 numbers"),
        (good | {f"{UP}.in_sum2": (0, (1, 96), bad.tobytes())}, metadata, "0 or more, got -1.0"),
        (good | {f"{UP}.counts": (0, (2, 1), bytes(8))}, metadata, "must have 1 numbers, got 2"),
        (good | {f"{UP}.counts": (1, (1, 1), bytes(2))}, metadata, "is F16 of shape"),
    ):
        (tmp_path / "im.gguf").write_bytes(gguf_file(described, tensors))
        with pytest.raises(binq.FormatError, match=message):
            binq.quantize_checkpoint(source, tmp_path / "out", importance=tmp_path / "im.gguf")


def test_items_travel_to_workers(source, calibration):
    from binq.convert.evidence import EvidenceFile
    from binq.convert.item import Settings
    from binq.convert.plan import make_plan
    from binq.convert.rules import check_choice_of
    from binq.files.checkpoint import Checkpoint

    file = EvidenceFile.checked("calibration", calibration)
    settings = Settings(check_choice_of("int4", method="gptq"), calibration=file)
    with Checkpoint(source) as opened:
        plan = make_plan(opened, settings)
    assert pickle.loads(pickle.dumps(plan.items)) == plan.items
