"""Types of GGUF with a scale and a minimum: their codes become int4 with offsets."""

import numpy as np
import pytest
from checkpoints.fixtures import gguf_file

import binq
from binq.convert.verify import verify
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

NAME = "blk.0.ffn_up.weight"
SHAPE = (96, 512)


def write(folder, kind, size, halves, shape=SHAPE, low=1e-4, high=2e-3):
    """Writes one tensor of random blocks that begin with two float16 numbers."""
    rng = np.random.default_rng(kind)
    weights = 32 if kind == 3 else 256
    blocks = rng.integers(0, 256, (np.prod(shape) // weights, size), dtype=np.uint8)
    numbers = halves * rng.uniform(low, high, (len(blocks), 2))
    blocks[:, :4] = numbers.astype(np.float16).view(np.uint8)
    path = folder / "m.gguf"
    tensors = {NAME: (kind, shape, blocks.tobytes())}
    path.write_bytes(gguf_file({"general.architecture": "deepseek2"}, tensors))
    return path


def read(path):
    with Checkpoint(path) as source:
        (tensor,) = logical_tensors(source)
        return tensor.read(source), tensor.exact_format(source)


def converted(path, folder, *options):
    report = binq.quantize_checkpoint(path, folder, *options)
    return report.tensors[0], binq.load_file(next(folder.glob("*.safetensors")))[NAME]


@pytest.mark.parametrize("shape", [SHAPE, (3, 64, 256)])
def test_q4_1_is_exact(tmp_path, shape):
    path = write(tmp_path, 3, 20, np.array([1, -7]), shape)
    values, exact = read(path)
    assert str(exact.packing) == "int4 g32 offset"
    entry, q = converted(path, tmp_path / "t")
    assert entry.format == "int4 g32 offset exact"
    assert entry.bits_per_weight < 5.5
    np.testing.assert_array_equal(q.dequantize(), values)
    assert list(verify(tmp_path / "t", path)) == []


def test_q4_k_keeps_its_codes(tmp_path):
    path = write(tmp_path, 12, 144, np.array([1, 1]))
    values, exact = read(path)
    assert exact is None
    entry, q = converted(path, tmp_path / "t")
    assert entry.format == "int4 g32 offset codes"
    assert "scales rounded" in entry.reason
    assert 60 < entry.sqnr_db < 90
    error = np.square(q.dequantize() - values, dtype=np.float64).sum()
    assert 10 * np.log10(np.square(values, dtype=np.float64).sum() / error) > 60
    assert list(verify(tmp_path / "t", path)) == []


def test_q4_k_of_scales_that_float16_does_not_have_is_quantized(tmp_path):
    path = write(tmp_path, 12, 144, np.array([1, 1]), low=2000, high=4000)
    entry, _ = converted(path, tmp_path / "t")
    assert entry.format == "int4 g128"


def test_a_few_small_scales_do_no_harm(tmp_path):
    path = write(tmp_path, 12, 144, np.array([1, 1]), low=1e-7)
    assert converted(path, tmp_path / "t")[0].format == "int4 g32 offset codes"
    # Those that are multiples of the smallest float16 are exact.
    path = write(tmp_path, 12, 144, np.array([1, 1]), low=1e-7, high=1e-6)
    assert converted(path, tmp_path / "u")[0].format == "int4 g32 offset exact"


def test_fewer_bits_are_given_where_asked(tmp_path):
    path = write(tmp_path, 12, 144, np.array([1, 1]))
    assert converted(path, tmp_path / "t", "ternary")[0].format == "ternary g128"


def test_loading_gives_floats_where_scales_would_be_rounded(tmp_path):
    loaded = binq.load(write(tmp_path, 12, 144, np.array([1, 1])))
    assert isinstance(loaded[NAME], np.ndarray)
    (tmp_path / "q4_1").mkdir()
    exact = binq.load(write(tmp_path / "q4_1", 3, 20, np.array([1, -7])))
    assert isinstance(exact[NAME], binq.QuantizedArray)
