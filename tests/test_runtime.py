"""Threads and cpu_info: what they accept, and what they tell."""

import re

import pytest

import binq
from binq import _core

AVX2 = {"avx2": True, "fma": True, "f16c": True}
VNNI = {"avx512": True, "avx512_vnni": True}
ARM = {"neon": True, "dotprod": True, "i8mm": True}


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
        ("avx512", ("avx512", "portable"), VNNI | AVX2, None),
        ("avx2", ("avx2", "portable"), AVX2, None),
        ("avx2", ("avx2", "portable"), {"avx512": True, "avx512_vnni": False} | AVX2, None),
        ("avxvnni", ("avxvnni", "avx2", "portable"), AVX2 | {"avx_vnni": True}, None),
        ("neon", ("neon", "portable"), {"neon": True}, None),
        ("i8mm", ("i8mm", "dotprod", "neon", "portable"), ARM, None),
        (
            "neon",
            ("neon", "portable"),
            ARM | {"i8mm": False},
            "this processor has dotprod but binq was built without its dotprod kernels: "
            "reinstall binq with a C compiler that knows dotprod",
        ),
        ("portable", ("portable",), {"avx2": True, "fma": False, "f16c": True}, None),
        ("portable", ("portable",), {}, None),
        (
            "portable",
            ("portable",),
            AVX2,
            "this processor has avx2 but binq was built without its avx2 kernels: "
            "reinstall binq with a C compiler that knows avx2",
        ),
        (
            "avx2",
            ("avx2", "portable"),
            AVX2 | VNNI,
            "this processor has avx512 but binq was built without its avx512 kernels: "
            "reinstall binq with a C compiler that knows avx512",
        ),
        (
            "portable",
            ("neon", "portable"),
            {"neon": True},
            "the portable kernels are in use though neon is available: is BINQ_ISA set?",
        ),
    ],
)
def test_cpu_info_says_why_it_is_slow(monkeypatch, isa, available, features, warning):
    monkeypatch.setattr(_core, "isa", lambda: isa)
    monkeypatch.setattr(_core, "available_isas", lambda: available)
    monkeypatch.setattr(_core, "cpu_features", lambda: features)
    assert binq.cpu_info()["warning"] == warning
