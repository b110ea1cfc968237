"""Blocks of GGUF that hold packed weights exactly: written, read again, and equal."""

import numpy as np
import pytest
from checkpoints.fixtures import floats, gguf_file

import binq
from binq.errors import UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.files.gguf import TYPES
from binq.models import logical_tensors
from binq.storage.gguf_writer import write_blocks

NAME = "blk.0.ffn_up.weight"
IDS = {name: number for number, (name, _, _) in TYPES.items()}


def read_again(folder, kind, blocks, shape):
    """Returns the values that reading a file with these blocks gives, and their exact packing."""
    path = folder / "m.gguf"
    metadata = {"general.architecture": "qwen3"}
    path.write_bytes(gguf_file(metadata, {NAME: (IDS[kind], shape, blocks.tobytes())}))
    with Checkpoint(path) as source:
        (tensor,) = logical_tensors(source)
        assert tensor.dtype == kind
        return tensor.read(source), tensor.exact_format(source)


# format, group, symmetric, the smallest type
CASES = [
    ("binary", 128, True, "Q1_0"),
    ("binary", 256, True, "Q1_0"),
    ("binary", None, True, "Q1_0"),
    ("binary", 64, True, "Q2_0"),
    ("binary", 32, True, "Q4_0"),
    ("ternary", 256, True, "TQ2_0"),
    ("ternary", None, True, "TQ2_0"),
    ("ternary", 128, True, "Q2_0"),
    ("ternary", 32, True, "Q4_0"),
    ("int2", 64, True, "Q2_0"),
    ("int2", 256, True, "Q2_0"),
    ("int2", 32, True, "Q4_0"),
    ("int4", 32, True, "Q4_0"),
    ("int4", 128, True, "Q4_0"),
    ("int4", None, True, "Q4_0"),
    ("int4", 64, False, "Q5_0"),
]


@pytest.mark.parametrize("shape", [(40, 512), (3, 33, 512)])
@pytest.mark.parametrize(("format", "group", "symmetric", "kind"), CASES)
def test_the_smallest_type_holds_weights_exactly(tmp_path, shape, format, group, symmetric, kind):
    w = floats("w", shape)
    w[..., :32, :] = np.abs(w[..., :32, :])  # zero points far from the middle
    q = binq.quantize(w, format, group_size=group, symmetric=symmetric)
    found, blocks = write_blocks(q)
    assert found == kind
    assert blocks.dtype == np.uint8
    assert blocks.shape[:-1] == shape[:-1]
    values, exact = read_again(tmp_path, kind, blocks, shape)
    np.testing.assert_array_equal(values, q.dequantize())
    if kind in ("Q1_0", "TQ2_0"):
        assert exact.packing.format == format


@pytest.mark.parametrize("kind", ["Q2_0", "Q4_0", "Q5_0", "Q8_0"])
def test_a_larger_type_may_be_asked_for(tmp_path, kind):
    q = binq.quantize(floats("w", (40, 256)), "ternary", group_size=64)
    assert write_blocks(q, kind)[0] == kind
    values, _ = read_again(tmp_path, kind, write_blocks(q, kind)[1], (40, 256))
    np.testing.assert_array_equal(values, q.dequantize())


def test_two_levels_are_q4_1_where_their_numbers_are_halves(tmp_path):
    w = np.where(floats("w", (40, 128)) > 0, np.float32(0.75), np.float32(-0.25))
    q = binq.quantize(w, "binary", group_size=32, symmetric=False)
    kind, blocks = write_blocks(q)
    assert kind == "Q4_1"
    np.testing.assert_array_equal(read_again(tmp_path, kind, blocks, w.shape)[0], q.dequantize())
    odd = binq.quantize(floats("w", (40, 128)), "binary", group_size=32, symmetric=False)
    with pytest.raises(UnsupportedFormatError, match=r"Q4_1: .*not one of its numbers"):
        write_blocks(odd)


def test_offsets_of_int4_are_q4_1(tmp_path):
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (40 * 4, 20), dtype=np.uint8)
    blocks[:, :4] = rng.uniform(-1, 1, (len(blocks), 2)).astype(np.float16).view(np.uint8)
    blocks = blocks.reshape(40, 80)
    values, exact = read_again(tmp_path, "Q4_1", blocks, (40, 128))
    with Checkpoint(tmp_path / "m.gguf") as source:
        (tensor,) = logical_tensors(source)
        q = tensor.exact_rows(source, exact, 0, 0, 40)
    kind, again = write_blocks(q)
    assert kind == "Q4_1"
    np.testing.assert_array_equal(again, blocks)
    np.testing.assert_array_equal(q.dequantize(), values)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (binq.quantize(floats("w", (8, 100)), "int4"), "rows of 100 are not whole blocks of 32"),
        (binq.quantize(floats("w", (8, 96)), "binary", group_size=32), "Q1_0: rows of 96"),
        (
            binq.quantize(floats("w", (8, 64)), "int4", scale_dtype="float32"),
            "Q8_0: a code or a scale is not one of its numbers",
        ),
    ],
)
def test_what_no_type_holds_is_refused_with_reasons(weights, reason):
    if reason.startswith("Q1_0"):
        with pytest.raises(UnsupportedFormatError, match=reason):
            write_blocks(weights, "Q1_0")
        return
    with pytest.raises(UnsupportedFormatError, match=reason):
        write_blocks(weights)


def test_zeros_are_no_binary_weights():
    q = binq.quantize(floats("w", (32, 256)), "ternary", group_size=256)
    with pytest.raises(UnsupportedFormatError, match="Q1_0: a code"):
        write_blocks(q, "Q1_0")


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="weights must be a QuantizedArray"):
        write_blocks(np.zeros((2, 2)))
    q = binq.quantize(floats("w", (8, 64)), "int4")
    with pytest.raises(ValueError, match="type must be one of"):
        write_blocks(q, "Q4_K")


def test_no_rows_make_no_blocks():
    q = binq.quantize(np.zeros((0, 64), np.float32), "int4", group_size=32)
    assert write_blocks(q)[1].shape == (0, 36)
