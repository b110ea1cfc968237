"""The thread pool: forks, many callers, limits, and an exit that does not hang."""

import ctypes
import ctypes.util
import multiprocessing
import os
import platform
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from strategies import random_quantized

import binq
from binq import _core
from binq._native import _threads

SHAPE = (1024, 1024)


def product(seed: int = 0) -> bytes:
    """A product large enough for the pool."""
    rng = np.random.default_rng(seed)
    q = random_quantized(rng, "int4", SHAPE)
    return binq.linear(rng.standard_normal((4, SHAPE[1]), dtype=np.float32), q).tobytes()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_set_num_threads_is_what_get_num_threads_says(threads):
    for count in (1, 2, 7, 256):
        binq.set_num_threads(count)
        assert binq.get_num_threads() == count


@pytest.mark.parametrize("bad", [0, -1, 257, 1.5, True, "2", None])
def test_a_bad_number_of_threads_is_refused(threads, bad):
    before = binq.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="threads must be"):
        binq.set_num_threads(bad)
    assert binq.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_multiplies_after_its_parent_did(threads):
    binq.set_num_threads(4)
    wanted = product()
    for _ in range(5):
        with warnings.catch_warnings():
            # Newer Pythons warn of the very thing that is tested here.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:  # pragma: no cover - the child leaves without reporting
            os._exit(0 if product() == wanted else 1)
        deadline = time.monotonic() + 30
        while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, "the child hangs"
            time.sleep(0.005)
        assert os.waitstatus_to_exitcode(done[1]) == 0
        assert product() == wanted


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_products_of_other_threads(threads):
    """Whatever locks of the pool were held at that moment, parent and children go on."""
    done = run(
        f"""
        import os, sys, threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import binq
        from test_threads import product
        binq.set_num_threads(4)
        wanted, stop = product(), threading.Event()
        def multiply():
            while not stop.is_set():
                assert product() == wanted
        callers = [threading.Thread(target=multiply) for _ in range(3)]
        for caller in callers:
            caller.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if product() == wanted else 1)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for caller in callers:
            caller.join()
        print("done")
        """,
        PYTHONWARNINGS="ignore",
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="calls the C library's fork")
def test_a_fork_that_python_does_not_know_of():
    done = run(
        f"""
        import ctypes, os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import binq
        from test_threads import product
        binq.set_num_threads(4)
        wanted = product()
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            os._exit(0 if product() == wanted else 1)
        print(os.waitpid(child, 0)[1])
        """
    )
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_of_every_start_method_agree(threads, method):
    binq.set_num_threads(2)
    wanted = product()
    code = f"""
        import multiprocessing, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_threads import product
        if __name__ == "__main__":
            product()
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                results = set(pool.map(product, [0, 0]))
            print(len(results), hash(results.pop()) == hash(product()))
    """
    # The child interpreter must not depend on this one's string hash seed.
    done = run(code, PYTHONHASHSEED="0", PYTHONWARNINGS="ignore")
    assert done.stdout.split() == ["1", "True"], done.stderr
    assert product() == wanted


def test_many_python_threads_multiply_at_once(threads):
    binq.set_num_threads(3)
    wanted = [product(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(product, [seed % 4 for seed in range(48)]))
    assert results == [wanted[seed % 4] for seed in range(48)]


def test_the_number_of_threads_may_change_between_any_two_products(threads):
    wanted = product()
    for count in (8, 1, 3, 2, 16, 1, 5):
        binq.set_num_threads(count)
        assert product() == wanted


def test_the_kernel_set_may_change_while_others_multiply(threads):
    binq.set_num_threads(2)
    before, wanted = _core.isa(), product()
    try:
        with ThreadPoolExecutor(2) as pool:
            results = [pool.submit(product) for _ in range(30)]
            while not all(result.done() for result in results):
                for isa in _core.available_isas():
                    _core.use_isa(isa)
    finally:
        _core.use_isa(before)
    assert {result.result() for result in results} == {wanted}


def test_many_more_threads_than_processors(threads):
    wanted = product()
    binq.set_num_threads(256)
    for _ in range(20):
        assert product() == wanted


def test_idle_workers_use_no_processor_time(threads):
    binq.set_num_threads(4)
    product()
    time.sleep(0.01)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05


def test_the_interpreter_exits_while_workers_sleep():
    done = run(
        """
        import numpy as np, binq
        binq.set_num_threads(8)
        q = binq.QuantizedArray.from_codes(
            np.ones((2048, 1024), int), np.ones((2048, 8)), format="ternary")
        print(float((np.ones((2, 1024), np.float32) @ q.T)[0, 0]))
        """
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1024.0", "")


@pytest.mark.parametrize("value", ["3", " 5 "])
def test_the_environment_sets_the_number_of_threads(value):
    done = run("import binq; print(binq.get_num_threads())", BINQ_NUM_THREADS=value)
    assert done.stdout.strip() == value.strip()


@pytest.mark.parametrize("value", ["0", "-1", "two", "257", "1.5", "9" * 5000])
def test_a_bad_environment_is_an_error_that_names_it(value):
    done = run("import binq; binq.get_num_threads()", BINQ_NUM_THREADS=value)
    assert done.returncode == 1
    assert "BINQ_NUM_THREADS must be a number from 1 to 256" in done.stderr


@pytest.mark.parametrize(
    ("text", "processors"),
    [
        ("max 100000\n", 256),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("1000 100000\n", 1),
        ("", 256),
        ("100000 0\n", 256),
    ],
)
def test_the_quota_of_a_container_is_respected(tmp_path, text, processors):
    path = tmp_path / "cpu.max"
    assert _threads._granted_processors(path) == 256
    path.write_text(text)
    assert _threads._granted_processors(path) == processors


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_reserve_little_memory():
    """A default stack of 8 MB a worker would count against a limit of the address space."""
    done = run(
        rf"""
        import re, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import binq
        from test_threads import product
        def size():
            return int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1])
        binq.set_num_threads(1)
        product()
        before = size()
        binq.set_num_threads(33)
        product()
        print((size() - before) // 1024)
        """
    )
    assert int(done.stdout) < 64, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thread_that_works_alone_has_no_helpers():
    done = run(
        f"""
        import os, sys, threading
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import binq
        from binq import _core
        from test_threads import product
        def count():
            return len(os.listdir("/proc/self/task"))
        binq.set_num_threads(3)
        before = count()
        found = []
        def alone():
            _core.work_alone()
            found.append(product())
            found.append(count() - before)
        thread = threading.Thread(target=alone)
        thread.start()
        thread.join()
        same = found[0] == product()
        print(found[1], count() - before, same)
        """
    )
    assert done.stdout.split() == ["1", "2", "True"], done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_the_affinity_of_the_process_is_respected():
    done = run(
        """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import binq
        print(binq.get_num_threads())
        """,
        BINQ_NUM_THREADS="",
    )
    assert done.stdout.strip() == "1", done.stderr


def test_threadpoolctl_governs_binq(threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    binq.set_num_threads(4)
    with threadpoolctl.threadpool_limits(limits=1, user_api="binq"):
        assert binq.get_num_threads() == 1
    assert binq.get_num_threads() == 4
    found = [i for i in threadpoolctl.threadpool_info() if i["user_api"] == "binq"]
    assert [i["num_threads"] for i in found] == [4]


class FloatEnvironment:
    """Denormals are 0 in this thread, as a library built with -ffast-math may have left it."""

    # Of what fegetenv writes: the word of the control register, and its bits for this.
    PLACES = MappingProxyType({"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)})

    def __init__(self):
        self.library = ctypes.CDLL(ctypes.util.find_library("m"))
        self.before = (ctypes.c_uint32 * 16)()

    def __enter__(self):
        self.library.fegetenv(self.before)
        flushing = type(self.before)(*self.before)
        word, bits = self.PLACES[platform.machine()]
        flushing[word] |= bits
        self.library.fesetenv(flushing)
        return self

    def __exit__(self, *_):
        self.library.fesetenv(self.before)


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in FloatEnvironment.PLACES,
    reason="needs the C library of Linux",
)
@pytest.mark.parametrize(("mode", "size"), [("int16", 1e-6), ("float32", 1e-12)])
@pytest.mark.parametrize("count", [1, 2])
def test_denormals_count_whatever_a_library_has_set(isa, threads, mode, size, count):
    """Denormal are the product of two scales in the integer mode, the result in the other."""
    rng = np.random.default_rng(4)
    q = random_quantized(rng, "ternary", SHAPE)
    q = binq.QuantizedArray.from_codes(
        q.codes(), q.group_scales().astype(np.float32) * np.float32(size), format="ternary"
    )
    x = rng.standard_normal((4, SHAPE[1])).astype(np.float32) * np.float32(2e-30)
    one = np.array([1e-40], np.float32)
    binq.set_num_threads(count)
    wanted = binq.linear(x, q, activations=mode)
    for _ in range(5):
        with FloatEnvironment():
            flushed = (one * np.float32(1)).tobytes()
            y = binq.linear(x, q, activations=mode)
            # The caller's setting is the caller's again.
            assert (one * np.float32(1)).tobytes() == flushed
        assert flushed == bytes(4)
        assert y.tobytes() == wanted.tobytes()
    assert wanted.any()
    tiny = np.finfo(np.float32).tiny
    if mode == "int16":
        assert q.group_scales().max() * np.abs(x).max() / 8191 < tiny
    else:
        assert np.abs(wanted).max() < tiny
