"""Memory of an export: that of one matrix, however many there are."""

import tracemalloc

import numpy as np
import pytest

import binq

WEIGHTS = 512 * 1024


def peak(tmp_path, to, layers):
    """Returns the most bytes that Python and numpy held while a file was exported."""
    w = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    q = binq.quantize(w, "int4")
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(layers)]
    binq.save_file(dict.fromkeys(names, q), tmp_path / f"{layers}.safetensors")
    tracemalloc.start()
    try:
        out = tmp_path / f"{layers}.{to}"
        binq.export_checkpoint(tmp_path / f"{layers}.safetensors", out, to=to)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf", "mlx"])
def test_memory_is_that_of_one_matrix(tmp_path, to):
    peak(tmp_path, to, 1)  # what is imported at the first time
    few, many = peak(tmp_path, to, 2), peak(tmp_path, to, 24)
    assert many < few + 2 * WEIGHTS
    assert many < 24 * WEIGHTS
