"""setup.py: which modules are built for which machine, with which flags, and when they are old."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = ROOT / "setup.py"
X86 = {"avx512", "avxvnni", "avx2", "avx2_base"}
pytestmark = pytest.mark.skipif(not SETUP.exists(), reason="an installed binq has no setup.py")


@pytest.fixture
def namespace(monkeypatch):
    """Returns what setup.py defines, without running it."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    return runpy.run_path(str(SETUP))


def build_ext(namespace, inplace=False):
    from setuptools import Distribution

    command = namespace["BuildExt"](Distribution())
    command.inplace = inplace
    command.ensure_finalized()
    return command


def built(namespace, macros, msvc=False, inplace=False):
    """Returns the flags of the modules that are built for a target, by the end of their names."""
    names = [isa.module for isa in namespace["ISAS"]["ISAS"]] + list(namespace["DOORS"])
    modules = [namespace["extension"](name) for name in names]
    command = build_ext(namespace, inplace)
    return {
        ext.name.rpartition(".")[2]: ext.extra_compile_args
        for ext in modules
        if command.set_flags(ext, msvc, set(macros))
    }


def test_the_target_decides_what_is_built(namespace):
    doors = {"portable"} | {name.rpartition(".")[2] for name in namespace["DOORS"]}
    assert set(built(namespace, {"__x86_64__"})) == doors | X86
    assert set(built(namespace, {"__aarch64__"})) == doors | {"neon", "dotprod", "i8mm"}
    assert set(built(namespace, {"__riscv"})) == doors
    assert set(built(namespace, {"win-amd64"}, msvc=True)) == doors | X86
    assert set(built(namespace, {"win-arm64"}, msvc=True)) == doors | {"neon"}


def test_kernels_for_tests_alone_are_built_in_place_or_where_they_are_asked_for(
    namespace, monkeypatch
):
    monkeypatch.delenv("BINQ_TEST_KERNELS", raising=False)
    assert "vnni256" not in built(namespace, {"__x86_64__"})
    assert "vnni256" in built(namespace, {"__x86_64__"}, inplace=True)
    monkeypatch.setenv("BINQ_TEST_KERNELS", "1")
    assert "vnni256" in built(namespace, {"__x86_64__"})
    assert "vnni256" not in built(namespace, {"__aarch64__"})


def test_only_gcc_and_only_kernels_get_its_parameters(namespace):
    gcc = built(namespace, {"__GNUC__", "__x86_64__"})
    clang = built(namespace, {"__GNUC__", "__clang__", "__x86_64__"})
    with_parameters = {name for name, flags in gcc.items() if any("--param" in f for f in flags)}
    assert with_parameters == X86
    assert [flag for flag in gcc["portable"] if flag.startswith("-O")][-1] == "-O2"
    assert not any(
        "--param" in flag or "tree" in flag or "model" in flag
        for flags in clang.values()
        for flag in flags
    )
    assert all("-ffp-contract=off" in flags for flags in (*gcc.values(), *clang.values()))


def test_the_flags_of_this_compiler_come_from_its_macros(namespace, tmp_path):
    compiler = tmp_path / "cross-gcc"
    compiler.write_text('#!/bin/sh\necho "#define __aarch64__ 1"\necho "#define __GNUC__ 12"\n')
    compiler.chmod(0o755)
    command = build_ext(namespace)
    command.compiler = type("Compiler", (), {"compiler_so": [str(compiler), "-fPIC"]})
    assert command.predefined_macros() == {"__aarch64__", "__GNUC__"}


def test_a_missing_compiler_is_named(namespace, tmp_path):
    command = build_ext(namespace)
    command.compiler = type("Compiler", (), {"compiler_so": [str(tmp_path / "no-such-cc")]})
    with pytest.raises(SystemExit, match=r"binq needs a C compiler: .*no-such-cc"):
        command.predefined_macros()


def test_one_architecture_is_left_of_several(namespace):
    one = namespace["one_architecture"]
    command = ["cc", "-arch", "x86_64", "-arch", "arm64", "-O2"]
    assert one(["cc", "-arch", "arm64", "-O2"]) == ["cc", "-arch", "arm64", "-O2"]
    assert one(command)[:2] == ["cc", "-O2"]
    assert one(command).count("-arch") == 1


def test_a_module_depends_on_what_it_is_made_of(namespace):
    needed = {path.name for path in namespace["needs"](namespace["source"]("binq._core"))}
    assert {"_core.pyx", "product.pxi", "table.pxd", "_threads.pxd", "cpu.h"} <= needed
    assert not any("avx" in name for name in needed)
    base, avx2 = (
        {path.name for path in namespace["needs"](namespace["source"](f"binq._native.x86.{name}"))}
        for name in ("avx2_base", "avx2")
    )
    assert {"lanes.h", "float_mode.h", "quantizers_search.pxi", "immintrin.pxd"} <= base
    assert {"float_mode.h", "avx2_int4_gemm.pxi", "immintrin.pxd"} <= avx2
    assert not any("avx512" in name or name == "tile.pxi" for name in base | avx2)


def test_every_native_file_is_part_of_a_module(namespace):
    names = [isa.module for isa in namespace["ISAS"]["ISAS"]] + list(namespace["DOORS"])
    used = {
        path.resolve() for name in names for path in namespace["needs"](namespace["source"](name))
    }
    kept = {
        path.resolve()
        for suffix in ("pyx", "pxd", "pxi", "h")
        for path in (ROOT / "src").rglob(f"*.{suffix}")
    }
    assert kept == used


@pytest.mark.skipif(os.name != "posix", reason="runs a shell")
def test_the_build_reads_the_rows_alone():
    """setup.py runs before anything is compiled: isas.py must not need binq."""
    code = "import runpy; print(len(runpy.run_path('src/binq/_native/isas.py')['ISAS']))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 4


def test_a_kernel_set_that_the_compiler_does_not_know_is_left_out(namespace):
    setuptools = pytest.importorskip("setuptools")
    command = namespace["BuildExt"](setuptools.Distribution())

    class Compiler:
        compiler_so = (sys.executable, "-c", "import sys; sys.exit('-mavxvnni' in sys.argv)")

    warned = []
    command.compiler, command.warn = Compiler(), warned.append
    names = [isa.module for isa in namespace["ISAS"]["ISAS"]]
    known = {n for n in names if command.knows_flags(namespace["extension"](n))}
    assert set(names) - known == {"binq._native.x86.avxvnni"}
    assert len(warned) == 1
    assert "left out avxvnni" in warned[0]
