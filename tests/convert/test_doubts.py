"""Weights that look wrong are named at the end of the report."""

import json

import numpy as np
import pytest
from checkpoints.fixtures import F32, Written, bitnet_packed, floats, save

import binq
from binq.convert.health import Health, moments

M = "model.layers.{}.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"


def convert(folder, values, format="int4", **options):
    written = Written(folder / "s")
    for name, array in values.items():
        written.put(name, array)
    save(written, {"model_type": "qwen3_moe"})
    return binq.quantize_checkpoint(written.path, folder / "t", format, group_size=32, **options)


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_linears_of_zeros_are_named(tmp_path, format):
    values = {M.format(n): floats(str(n), (64, 64)) * (n != 1) for n in range(3)}
    report = convert(tmp_path, values, format)
    assert report.warnings == [f"1 of 3 linears holds only zeros: {M.format(1)}"]
    assert report.warnings[0] in str(report)
    assert json.loads(report.to_json())["warnings"] == report.warnings
    assert [t.zero_matrices for t in report.tensors] == [0, 1, 0]


def test_packed_weights_of_zeros_with_scales_are_named(tmp_path):
    written = Written(tmp_path / "s")
    for n in range(2):
        bitnet_packed(written, M.format(n), (256, 512), divide=False)
    written.stored[M.format(0)] = np.full((64, 512), 0b01010101, np.uint8)
    save(written, {"model_type": "bitnet", "quantization_config": {
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
    }})  # fmt: skip
    report = binq.quantize_checkpoint(written.path, tmp_path / "t")
    assert report.warnings == [f"1 of 2 linears holds only zeros: {M.format(0)}"]


def test_one_matrix_of_a_stack_is_enough(tmp_path):
    values = floats("stack", (4, 64, 64))
    values[2] = 0
    report = convert(tmp_path, {EXPERTS: values})
    assert report.warnings == [f"1 of 1 linears holds only zeros: {EXPERTS} (1)"]
    values[2] = values[1] + F32(0.5)
    report = convert(tmp_path / "more", {EXPERTS: values})
    assert len(report.warnings) == 1
    assert f"{EXPERTS} (0.4" in report.warnings[0]


@pytest.mark.parametrize(("shift", "doubtful"), [(0.0, False), (0.1, False), (0.32, True)])
def test_means_far_from_zero_are_named(tmp_path, shift, doubtful):
    """A zero point that is off by one shifts a matrix by about 0.32 of its deviation."""
    values = floats("shift", (96, 128)) - F32(shift)
    report = convert(tmp_path, {M.format(0): values})
    if not doubtful:
        assert report.warnings == []
        return
    (warning,) = report.warnings
    assert "has a mean farther from 0 than 0.2" in warning
    assert report.tensors[0].mean == pytest.approx(abs(values.mean()) / values.std(), rel=1e-3)


def test_embeddings_may_have_any_mean(tmp_path):
    values = {"model.embed_tokens.weight": floats("e", (96, 64)) + 1}
    assert convert(tmp_path, values, embeddings="int4").warnings == []


def test_what_was_read_as_zero_is_named(tmp_path):
    values = floats("nan", (64, 64))
    values[3, 5:8] = np.nan, np.inf, -np.inf
    report = convert(tmp_path, {M.format(0): values}, nonfinite="zero")
    assert report.warnings == [f"1 of 1 linears holds inf or NaN, read as 0: {M.format(0)} (3)"]


def test_many_names_are_counted(tmp_path):
    values = {M.format(n): np.zeros((64, 64), F32) for n in range(7)}
    (warning,) = convert(tmp_path, values).warnings
    assert warning.startswith("7 of 7 linears hold only zeros")
    assert warning.endswith("and 2 more")


def test_small_samples_prove_nothing_and_large_ones_are_sampled():
    health = Health(1)
    health.add(0, moments(np.array([[1.0, 2.0, -0.5, 0.1]])), 1.0, 0)
    assert health.mean == 0
    wide = floats("wide", (4096, 512)) + F32(0.3)
    found = moments(wide)
    assert found[0] < wide.size / 8
    health = Health(1)
    health.add(0, found, 1.0, 0)
    assert health.mean == pytest.approx(0.3, rel=0.05)
    constant = Health(2)
    constant.add(1, moments(np.ones((64, 64), F32)), 1.0, 0)
    assert constant.mean > 1e6
