"""Memory of packed weights: zeros, aligned, of no more pages than they need."""

import copy
import mmap
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import binq
from binq import _memory

HUGE_PAGE = 2**21


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
@pytest.mark.parametrize("shape", [(0, 4), (1,), (3, 5), (HUGE_PAGE + 4096,), (3, HUGE_PAGE // 2)])
def test_zeros(shape, dtype):
    array = _memory.zeros(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert not array.any()
    array[...] = 1
    assert array.all()
    if hasattr(mmap, "MADV_HUGEPAGE") and array.nbytes >= HUGE_PAGE:
        assert array.ctypes.data % HUGE_PAGE == 0


def test_a_kernel_without_huge_pages(monkeypatch):
    monkeypatch.setattr(_memory.mmap, "MADV_HUGEPAGE", 0xBAD, raising=False)
    array = _memory.zeros((HUGE_PAGE,), np.uint8)
    assert array.nbytes == HUGE_PAGE
    assert not array.any()


@pytest.mark.parametrize("size", [2**50, 2**62])
def test_no_memory_is_a_memory_error(size):
    with pytest.raises(MemoryError):
        _memory.zeros((size,), np.uint8)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="plain arrays elsewhere")
def test_many_arrays_do_not_use_up_the_memory_map(monkeypatch):
    monkeypatch.setattr(_memory, "_MOST_MAPPINGS", 3 + len(_memory._mappings))
    arrays = [_memory.zeros((HUGE_PAGE,), np.uint8) for _ in range(5)]
    assert [array.base is not None for array in arrays] == [True] * 3 + [False] * 2
    del arrays
    assert _memory.zeros((HUGE_PAGE,), np.uint8).base is not None


def test_copies_are_apart_and_equal():
    q = binq.quantize(np.ones((4096, 4096), np.float32), "int4", method="absmax")
    copied = copy.deepcopy(q)
    assert copied == q
    assert not np.shares_memory(copied.packed, q.packed)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_arrays_take_the_memory_of_their_bytes():
    """Address space around an array is not memory: 64 arrays of 2.1 MB take 134 MB, not 268."""
    code = """
        import numpy as np
        from binq import _memory
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096
        before = resident()
        arrays = [_memory.zeros((2_100_000,), np.uint8) for _ in range(64)]
        for array in arrays:
            array[...] = 1
        print(resident() - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == pytest.approx(64 * 2_100_000, rel=0.1)
