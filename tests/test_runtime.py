"""Threads and cpu_info: what they accept, and what they tell."""

import re

import pytest

import binq
from binq import _core


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = binq.get_num_threads()
    yield
    binq.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_set_num_threads():
    for count in (1, 3, 256):
        binq.set_num_threads(count)
        assert binq.get_num_threads() == count
        assert binq.cpu_info()["threads"] == count


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (0, ValueError, "threads must be from 1 to 256, got 0"),
        (-2, ValueError, "threads must be from 1 to 256, got -2"),
        (257, ValueError, "threads must be from 1 to 256, got 257"),
        (True, TypeError, "threads must be an integer, got True"),
        (2.0, TypeError, "threads must be an integer, got 2.0"),
        (None, TypeError, "threads must be an integer, got None"),
    ],
)
def test_set_num_threads_fails(count, error, message):
    before = binq.get_num_threads()
    with pytest.raises(error, match=re.escape(message)):
        binq.set_num_threads(count)
    assert binq.get_num_threads() == before


def test_cpu_info():
    info = binq.cpu_info()
    assert set(info) == {"isa", "available", "features", "threads", "version", "warning"}
    assert info["isa"] in info["available"]
    assert "portable" in info["available"]
    assert all(type(value) is bool for value in info["features"].values())
    assert info["version"] == binq.__version__


@pytest.mark.parametrize(
    ("isa", "available", "features", "warning"),
    [
        ("avx2", ("portable", "avx2"), {"avx2": True}, None),
        ("neon", ("portable", "neon"), {"neon": True}, None),
        ("portable", ("portable",), {"avx2": False}, None),
        (
            "portable",
            ("portable",),
            {"avx2": True},
            "this processor has avx2 but binq was built without its avx2 kernels: "
            "reinstall binq with a C compiler that knows avx2",
        ),
        (
            "portable",
            ("portable", "neon"),
            {"neon": True},
            "the portable kernels are in use though neon is available (BINQ_ISA?)",
        ),
    ],
)
def test_cpu_info_says_why_it_is_slow(monkeypatch, isa, available, features, warning):
    monkeypatch.setattr(_core, "isa", lambda: isa)
    monkeypatch.setattr(_core, "available_isas", lambda: available)
    monkeypatch.setattr(_core, "cpu_features", lambda: features)
    assert binq.cpu_info()["warning"] == warning
