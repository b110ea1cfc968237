"""Which kernels run: BINQ_ISA, what the CPU offers, and what each module may contain."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import binq
from binq import _core


def run(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"BINQ_ISA": isa},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", _core.available_isas())
def test_the_environment_forces_a_kernel_set(name):
    assert run("import binq; print(binq.cpu_info()['isa'])", name).stdout.strip() == name


def test_the_best_kernel_set_is_the_default():
    done = run("import binq; print(binq.cpu_info()['isa'])", "")
    assert done.stdout.strip() == _core.available_isas()[0]


@pytest.mark.parametrize("name", ["sse9", "neon" if "avx2" in _core.available_isas() else "avx2"])
def test_an_unknown_or_unavailable_name_raises_with_the_list(name):
    done = run("import binq; binq.cpu_info()", name)
    assert done.returncode == 1
    assert "BINQ_ISA must be one of" in done.stderr
    assert ", ".join(_core.available_isas()) in done.stderr
    assert repr(name) in done.stderr
    with pytest.raises(ValueError, match="BINQ_ISA must be one of"):
        _core.use_isa(name)


def test_cpu_info_tells_what_runs():
    info = binq.cpu_info()
    assert info["isa"] in info["available"]
    assert info["available"][-1] == "portable"
    assert info["threads"] == binq.get_num_threads()


def disassembly(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", spec.origin],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


needs_objdump = pytest.mark.skipif(
    shutil.which("objdump") is None or platform.machine() != "x86_64",
    reason="needs objdump on x86-64",
)


@needs_objdump
@pytest.mark.parametrize("module", ["_core", "_native._threads", "_native.portable.portable"])
def test_modules_for_every_cpu_hold_no_avx(module):
    """Any register wider than 128 bits, or any VEX instruction, would be an illegal instruction."""
    assert not re.search(r"%[yz]mm|\tv(p|mov|add|mul|sub|cvt)\w+ ", disassembly(f"binq.{module}"))


@needs_objdump
@pytest.mark.skipif("avx2" not in _core.available_isas(), reason="the avx2 kernels are not built")
@pytest.mark.parametrize("module", ["avx2", "avx2_base"])
def test_the_avx2_modules_hold_no_avx512(module):
    text = disassembly(f"binq._native.x86.{module}")
    assert "%ymm" in text
    assert not re.search(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[1-7]\b", text)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_flags_that_bend_floats_do_not_compile(flag):
    header = Path(binq.__file__).parent / "_native" / "float_mode.h"
    if not header.exists():
        pytest.skip("an installed binq has no headers")
    command = ["cc", "-fsyntax-only", "-x", "c", str(header)]
    assert subprocess.run(command, check=False).returncode == 0
    done = subprocess.run([*command, flag], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "binq cannot be compiled with -ffast-math" in done.stderr
