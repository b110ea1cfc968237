"""Memory of an export: that of a few matrices for each thread, however many there are."""

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
        binq.export_checkpoint(
            tmp_path / f"{layers}.safetensors", out, to=to, overwrite=out.exists()
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def threads():
    before = binq.get_num_threads()
    yield
    binq.set_num_threads(before)


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf", "gptq", "awq", "mlx"])
def test_files_are_the_same_for_any_number_of_threads(tmp_path, to):
    rng = np.random.default_rng(1)
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(9)]
    tensors = {
        name: binq.quantize(
            rng.standard_normal((64, 128)),
            "int4",
            group_size=32,
            symmetric=to not in ("gptq", "awq", "mlx"),
        )
        for name in names
    }
    binq.save_file(tensors | {"norm.weight": np.ones(7, np.float32)}, tmp_path / "q.safetensors")
    found = []
    for threads in (1, 5):
        binq.set_num_threads(threads)
        out = tmp_path / f"{threads}"
        binq.export_checkpoint(tmp_path / "q.safetensors", out, to=to)
        files = [out] if out.is_file() else sorted(out.iterdir())
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]


@pytest.mark.parametrize("to", ["compressed-tensors", "gguf", "mlx"])
def test_memory_does_not_grow_with_the_number_of_matrices(tmp_path, to):
    binq.set_num_threads(1)
    peak(tmp_path, to, 1)  # what is imported at the first time
    few, many = peak(tmp_path, to, 3), peak(tmp_path, to, 24)
    assert many < few + 2 * WEIGHTS
    assert many < 24 * WEIGHTS
    binq.set_num_threads(2)
    assert peak(tmp_path, to, 24) < 2 * many
