"""Compiles the native modules: one extension per instruction set, each with flags of its own."""

import os
import platform
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/binq")
DEPENDS = sorted(str(p) for s in ("*.pxd", "*.pxi", "*.h") for p in PACKAGE.rglob(s))
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
X86 = platform.machine().lower() in ("x86_64", "amd64", "x64")
ARM64 = platform.machine().lower() in ("aarch64", "arm64")
# -ffp-contract=off: a multiply and an add stay two roundings, as in numpy, unless a kernel asks
# for the fused form. GCC would otherwise reorder vector adds (tree-reassoc), keep copies of loop
# values (tree-pre) and move products away from the adds that consume them (tree-ter), and run out
# of registers in the hot loops: 34 instructions and two spills become 26 and none.
UNIX_FLAGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
GCC_ONLY = [
    *("-fno-tree-reassoc", "-fno-tree-pre", "-fno-tree-ter"),
    # The functions of the exact int4 search, inlined late and not by force, make it a tenth faster.
    *("--param=max-inline-insns-auto=1000", "--param=inline-unit-growth=1000"),
    *("--param=large-function-growth=1000", "--param=large-stack-frame-growth=10000"),
]
# A kernel is written as small inline functions that become one loop, whatever their size.
FORCE_INLINE = {False: "inline __attribute__((always_inline))", True: "__forceinline"}  # MSVC
# What Windows shows of a module besides its initialisation: threadpoolctl looks for these.
EXPORTS = {"binq._threads": ["binq_get_num_threads", "binq_set_num_threads"]}
ISA_FLAGS = {
    "binq._kernels.avx2": {"unix": ["-mavx2", "-mfma", "-mf16c"], "msvc": ["/arch:AVX2"]},
    "binq._kernels.avx512": {
        "unix": [
            *("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl"),
            *("-mavx512vnni", "-mprefer-vector-width=256"),
        ],
        "msvc": ["/arch:AVX512"],
    },
}


def modules():
    """Returns the dotted names of the modules that this machine can compile."""
    names = ["binq._core", "binq._threads", "binq._kernels.portable"]
    if X86:
        names += ["binq._kernels.avx2", "binq._kernels.avx512"]
    if ARM64:
        names.append("binq._kernels.neon")
    return [name for name in names if source(name).exists()]


def source(name):
    return Path("src", *name.split(".")).with_suffix(".pyx")


def extension(name):
    return Extension(
        name, [source(name).as_posix()], depends=DEPENDS, export_symbols=EXPORTS.get(name)
    )


class BuildExt(build_ext):
    """build_ext that chooses compiler flags by compiler and by module name."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        for ext in self.extensions:
            isa = ISA_FLAGS.get(ext.name, {})
            if ext.name.startswith("binq._kernels."):
                ext.define_macros.append(("CYTHON_INLINE", FORCE_INLINE[msvc]))
            if msvc:
                ext.extra_compile_args = ["/O2", "/fp:precise", *isa.get("msvc", [])]
            else:
                ext.extra_compile_args = [*UNIX_FLAGS, *self.gcc_flags(), *isa.get("unix", [])]
                if os.name == "posix":
                    ext.extra_link_args = ["-pthread"]
        super().build_extensions()

    def gcc_flags(self):
        """Returns the flags that GCC has and clang refuses."""
        version = os.popen(f"{self.compiler.compiler[0]} --version").read().lower()
        return [] if "clang" in version else GCC_ONLY


setup(
    ext_modules=cythonize(
        [extension(name) for name in modules()],
        compiler_directives=DIRECTIVES,
        include_path=["src"],
        build_dir="build/cython",
    ),
    cmdclass={"build_ext": BuildExt},
)
