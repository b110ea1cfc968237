"""The machines that binq has kernels for: one row each.

Read by setup.py (what to compile, with which flags), by binq._core (what to import), by
binq.runtime (what to say of a processor) and by the scripts in tests/ (what to emulate). Imports
nothing of binq, since setup.py runs it before anything is compiled.
"""

from typing import NamedTuple


class Machine(NamedTuple):
    """A processor family: how a compiler names it, and the features that cpu.h can report."""

    macros: tuple[str, ...]
    """What GCC and clang define when they compile for it."""
    msvc: str
    """The platform name of MSVC's builds."""
    features: tuple[str, ...]
    """Feature i is bit i of binq_cpu_features()."""


class Isa(NamedTuple):
    """A kernel set: the module ``binq._native.FOLDER.NAME``, compiled with flags of its own."""

    name: str
    folder: str
    machine: str | None
    """A key of MACHINES, or None where every machine runs it."""
    features: tuple[str, ...]
    """What the processor and the operating system must have."""
    unix: tuple[str, ...] = ()
    """Flags of GCC and clang."""
    msvc: tuple[str, ...] | None = ()
    """Flags of MSVC, or None where it is not known to compile the module: left out then."""
    only_tests: bool = False
    """Whether no processor has it as its best, so that what is installed does without."""
    part: bool = False
    """Whether it has no products: the tables of other sets begin with it, and none chooses it."""

    @property
    def module(self) -> str:
        """Returns the dotted name of the module that exports the kernels."""
        return f"binq._native.{self.folder}.{self.name}"


MACHINES = {
    "x86_64": Machine(
        macros=("__x86_64__", "_M_X64"),
        msvc="win-amd64",
        features=("avx2", "fma", "f16c", "avx512", "avx512_vnni", "avx_vnni"),
    ),
    "aarch64": Machine(
        macros=("__aarch64__", "_M_ARM64"),
        msvc="win-arm64",
        features=("neon", "dotprod", "i8mm"),
    ),
}

AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")

# Best first: the first one that is built and that the processor runs is taken.
ISAS = (
    Isa(
        "avx512",
        "x86",
        "x86_64",
        features=("avx2", "fma", "f16c", "avx512", "avx512_vnni"),
        unix=(
            *AVX2_FLAGS,
            *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
            "-mprefer-vector-width=256",
        ),
        msvc=("/arch:AVX512",),
    ),
    Isa(
        "avxvnni",
        "x86",
        "x86_64",
        features=("avx2", "fma", "f16c", "avx_vnni"),
        unix=(*AVX2_FLAGS, "-mavxvnni"),
        msvc=("/arch:AVX2",),
    ),
    # The source of avxvnni, tested where no processor is at hand that has it.
    Isa(
        "vnni256",
        "x86",
        "x86_64",
        features=("avx2", "fma", "f16c", "avx512", "avx512_vnni"),
        unix=(*AVX2_FLAGS, "-mavx512f", "-mavx512vl", "-mavx512vnni"),
        msvc=("/arch:AVX512",),
        only_tests=True,
    ),
    Isa(
        "avx2",
        "x86",
        "x86_64",
        features=("avx2", "fma", "f16c"),
        unix=AVX2_FLAGS,
        msvc=("/arch:AVX2",),
    ),
    Isa(
        "avx2_base",
        "x86",
        "x86_64",
        features=("avx2", "fma", "f16c"),
        unix=AVX2_FLAGS,
        msvc=("/arch:AVX2",),
        part=True,
    ),
    Isa(
        "i8mm",
        "arm",
        "aarch64",
        features=("neon", "dotprod", "i8mm"),
        unix=("-march=armv8.2-a+dotprod+i8mm",),
        msvc=None,
    ),
    Isa(
        "dotprod",
        "arm",
        "aarch64",
        features=("neon", "dotprod"),
        unix=("-march=armv8.2-a+dotprod",),
        msvc=None,
    ),
    Isa("neon", "arm", "aarch64", features=("neon",)),
    Isa("portable", "portable", None, features=()),
)
