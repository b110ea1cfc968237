"""Checkpoints written by other libraries' own classes, against the hashes of their values.

BINQ_TINY_CHECKPOINTS names a folder of checkpoints, each with an ``expected.json`` that lists every
stored tensor (``raw_sha256`` of its bytes, ``f32_sha256`` of its values as float32) and every
weight made of several (``logical``, with the hash of its dequantized float32 values).
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

import binq
from binq.files.checkpoint import Checkpoint
from binq.models import UNKNOWN, logical_tensors

pytestmark = pytest.mark.interop

ROOT = os.environ.get("BINQ_TINY_CHECKPOINTS")
FOLDERS = sorted(path.parent for path in Path(ROOT).glob("*/expected.json")) if ROOT else []


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def case(request):
    expected = json.loads((request.param / "expected.json").read_text())
    with Checkpoint(request.param) as source:
        yield source, {tensor.name: tensor for tensor in logical_tensors(source)}, expected


def test_every_stored_tensor_has_its_hash(case):
    source, tensors, expected = case
    assert set(source.names) == {entry["name"] for entry in expected["tensors"]}
    for entry in expected["tensors"]:
        name = entry["name"]
        data = source.read_bytes(name, 0, source.info(name).nbytes)
        assert sha256(data) == entry["raw_sha256"], name
        tensor = tensors.get(name)
        if tensor is None or tensor.scheme not in ("plain", "transposed"):
            continue
        values = tensor.read(source)
        if tensor.scheme == "transposed":
            values = values.swapaxes(-1, -2)
        assert list(values.shape) == entry["shape"]
        if entry.get("f32_sha256"):
            assert sha256(values) == entry["f32_sha256"], name


def test_every_logical_weight_has_its_hash(case):
    source, tensors, expected = case
    # Those of GGUF files have Hugging Face's names.
    by_stored = {tensor.stored: tensor for tensor in tensors.values()}
    for entry in expected["logical"]:
        tensor = by_stored[tuple(entry["stored"])]
        assert list(tensor.stored) == entry["stored"]
        assert list(tensor.shape) == entry["shape"]
        assert sha256(tensor.read(source)) == entry["f32_sha256"], tensor.name


def test_policy_is_the_expected_one(case):
    _, tensors, expected = case
    for entry in expected["tensors"]:
        tensor = tensors.get(entry["name"].removesuffix("_blocks"))
        if tensor is not None:
            assert tensor.reason != UNKNOWN, tensor.name
            if "quantize" in entry:
                assert tensor.quantize == entry["quantize"], tensor.name


def test_fused_experts_have_their_groups_along_the_inputs(case):
    _, tensors, expected = case
    for entry in expected["tensors"]:
        if "layout" in entry and "_blocks" not in entry["name"]:
            shape, layout = entry["shape"], entry["layout"]
            inner = [shape[layout[f"{axis}_axis"]] for axis in ("expert", "out", "in")]
            assert list(tensors[entry["name"]].shape) == inner


@pytest.mark.parametrize("format", ["binary", "ternary", "int4"])
def test_every_checkpoint_quantizes_and_loads(case, tmp_path, format):
    source, tensors, _ = case
    binq.quantize_checkpoint(source.path, tmp_path / "packed", format)
    loaded = {}
    for file in (tmp_path / "packed").glob("*.safetensors"):
        loaded.update(binq.load_file(file))
    for tensor in tensors.values():
        if not tensor.quantize:
            names = [tensor.name, *(tensor.stored[1:] if tensor.copyable else ())]
            assert all(isinstance(loaded.pop(name), np.ndarray) for name in names)
            continue
        packed = loaded.pop(tensor.name)
        assert isinstance(packed, binq.QuantizedArray)
        assert packed.shape == tensor.shape
        exact = tensor.exact_format(source)
        if exact is not None and packed.format == exact.packing.format:
            np.testing.assert_array_equal(packed.dequantize(), tensor.read(source))
        else:
            assert packed.format == format
    assert not loaded
