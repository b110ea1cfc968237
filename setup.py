"""Compiles the native modules: the two that every machine runs, and one per instruction set.

The rows of src/binq/_native/isas.py say which kernel sets there are and with which flags. What the
compiler is, and which machine it compiles for, is asked of its predefined macros: cross compilers
and ARCHFLAGS are served by that. BINQ_CFLAGS comes after all other flags. Kernel sets that only
tests run are built in place, or where BINQ_TEST_KERNELS is set.
"""

import os
import platform
import re
import runpy
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("src/binq/_native")
ISAS = runpy.run_path(str(NATIVE / "isas.py"))
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
    "auto_pickle": False,
    "emit_code_comments": False,
}
# -ffp-contract=off: a multiply and an add stay two roundings, as in numpy, unless a kernel asks
# for the fused form.
UNIX_FLAGS = ["-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# GCC would otherwise reorder vector adds (tree-reassoc), keep copies of loop values (tree-pre) and
# move products away from the adds that consume them (tree-ter), and run out of registers in the
# hot loops: 34 instructions and two spills become 26 and none. On ARM it would load a whole turn of
# a loop before the first product (schedule-insns) and run out of them too.
GCC_KERNEL_FLAGS = [
    *("-fno-tree-reassoc", "-fno-tree-pre", "-fno-tree-ter", "-fno-schedule-insns"),
]
# Of kernels that are written with a machine's vectors.
GCC_VECTOR_FLAGS = [
    # The exact search is up to a fifth faster with its functions inlined late, not by force.
    *("--param=max-inline-insns-auto=200", "--param=inline-unit-growth=100"),
    *("--param=large-function-growth=1000", "--param=large-stack-frame-growth=10000"),
]
# Of plain loops: vectors and unrolled loops are what they gain by -O3, which takes twice the time.
GCC_PLAIN_FLAGS = ["-O2", "-fvect-cost-model=dynamic", "-fpeel-loops"]
# _core computes nothing: small, a call of 1.4 microseconds takes a hundredth longer.
DOOR_LEVELS = {"binq._core": "-Os"}
# A kernel is written as small inline functions that become one loop, whatever their size.
FORCE_INLINE = {False: "inline __attribute__((always_inline))", True: "__forceinline"}  # MSVC
# What Windows shows of a module besides its initialisation: threadpoolctl looks for these.
EXPORTS = {"binq._native._threads": ["binq_get_num_threads", "binq_set_num_threads"]}
# Every machine's: they choose and share out, the kernels compute; one searches for scales.
DOORS = tuple(
    f"binq.{name}" for name in ("_core", "_native._gptq", "_native._search", "_native._threads")
)


def source(name):
    """Returns the .pyx file of a module."""
    return Path("src", *name.split(".")).with_suffix(".pyx")


def needs(path, found=()):
    """Returns the files of the project that a native source is made of, itself the first."""
    if path in found:
        return found
    found = (*found, path)
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r'^ *(?:include|cdef extern from) "(.+?)"', text, re.MULTILINE):
        for other in (path.parent / name, NATIVE / name):
            if other.exists():  # Others are headers of the system.
                found = needs(other, found)
                break
    for name in re.findall(r"^ *from (binq[\w.]*) cimport", text, re.MULTILINE):
        found = needs(source(name).with_suffix(".pxd"), found)
    own = path.with_suffix(".pxd")
    return needs(own, found) if path.suffix == ".pyx" and own.exists() else found


def extension(name):
    return Extension(
        name,
        [str(source(name))],
        depends=[str(path) for path in needs(source(name))],
        include_dirs=[str(NATIVE)],
        export_symbols=EXPORTS.get(name),
    )


def one_architecture(command):
    """Returns a compiler's command with the last of several ``-arch NAME`` left.

    Kernels are for one machine, while a universal Python on macOS compiles for two: the one that
    runs here is taken. ARCHFLAGS, which setuptools has put in the command, names another.
    """
    names = [name for flag, name in pairwise(command) if flag == "-arch"]
    if len(set(names)) < 2:
        return command
    keep = platform.machine() if platform.machine() in names else names[-1]
    kept = iter(command)
    command = [word for word in kept if word != "-arch" or (next(kept), False)[1]]
    return [*command, "-arch", keep]


class BuildExt(build_ext):
    """build_ext that knows the compiler, and runs Cython and it side by side for all modules."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = True
        # In place (pip install --editable) is where binq is developed.
        self.for_tests = bool(self.inplace or os.environ.get("BINQ_TEST_KERNELS"))
        self.cython_lock = threading.Lock()

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        if not msvc:
            for part in ("compiler", "compiler_so", "compiler_cxx", "linker_so"):
                setattr(self.compiler, part, one_architecture(getattr(self.compiler, part)))
        macros = {self.plat_name} if msvc else self.predefined_macros()
        self.extensions = [ext for ext in self.extensions if self.set_flags(ext, msvc, macros)]
        if not msvc:
            self.extensions = [ext for ext in self.extensions if self.knows_flags(ext)]
        super().build_extensions()

    def predefined_macros(self):
        """Returns the names that the compiler defines for its target before any header."""
        command = [*self.compiler.compiler_so, "-dM", "-E", "-x", "c", os.devnull]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or error
            sys.exit(
                "binq needs a C compiler: install GCC (apt install gcc), Clang (xcode-select "
                f"--install) or name yours in CC; {' '.join(command)} failed: {detail}"
            )
        return set(re.findall(r"^#define (\w+)", done.stdout, re.MULTILINE))

    def knows_flags(self, ext):
        """Returns whether the compiler takes a module's flags: old ones know no new processor."""
        isa = next((isa for isa in ISAS["ISAS"] if isa.module == ext.name), None)
        if isa is None or not isa.unix:
            return True
        command = [*self.compiler.compiler_so, *isa.unix, "-E", "-x", "c", os.devnull]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return True
        self.warn(f"left out {isa.name}: {command[0]} does not know {' '.join(isa.unix)}")
        return False

    def set_flags(self, ext, msvc, macros):
        """Gives a module its flags; returns False where it is not to be built."""
        isa = next((isa for isa in ISAS["ISAS"] if isa.module == ext.name), None)
        if isa and isa.only_tests and not self.for_tests:
            return False
        if isa and isa.machine:
            machine = ISAS["MACHINES"][isa.machine]
            if not macros & {machine.msvc, *machine.macros}:
                return False
        if isa and msvc and isa.msvc is None:
            return False
        if isa:
            ext.define_macros.append(("CYTHON_INLINE", FORCE_INLINE[msvc]))
        if msvc:
            ext.extra_compile_args = ["/O2", "/fp:precise", *(isa.msvc if isa else ())]
            return True
        gcc = "__GNUC__" in macros and "__clang__" not in macros
        ext.extra_compile_args = [
            *("-O3" if isa else DOOR_LEVELS.get(ext.name, "-O2"), *UNIX_FLAGS),
            *(GCC_KERNEL_FLAGS if isa and gcc else ()),
            *((GCC_VECTOR_FLAGS if isa.machine else GCC_PLAIN_FLAGS) if isa and gcc else ()),
            *(isa.unix if isa else ()),
            *os.environ.get("BINQ_CFLAGS", "").split(),
        ]
        if os.name == "posix":
            ext.extra_link_args = ["-pthread"]
        return True

    def build_extension(self, ext):
        c_file = Path("build/cython", *ext.name.split(".")).with_suffix(".c")
        newest = max(Path(path).stat().st_mtime for path in [*ext.depends, __file__])
        if self.force or not c_file.exists() or c_file.stat().st_mtime < newest:
            self.run_cython(ext.name, ext.sources[0], c_file)
        ext.sources = [str(c_file)]
        super().build_extension(ext)

    def run_cython(self, name, pyx, c_file):
        """Runs Cython in this process, which loads it once, for one module at a time.

        Compilers run beside it: they are processes, for which the thread of their module waits.
        """
        # What is up to date needs no Cython.
        from Cython.Compiler.Main import CompilationOptions, compile_single

        c_file.parent.mkdir(parents=True, exist_ok=True)
        partial = c_file.with_suffix(".partial.c")
        options = CompilationOptions(
            compiler_directives=dict(DIRECTIVES), include_path=["src"], output_file=str(partial)
        )
        with self.cython_lock:
            errors = compile_single(pyx, options, name).num_errors
        if errors:
            sys.exit(f"{pyx} does not compile")
        partial.replace(c_file)


setup(
    # The longest to compile first.
    ext_modules=[extension(isa.module) for isa in reversed(ISAS["ISAS"])]
    + [extension(name) for name in DOORS],
    cmdclass={"build_ext": BuildExt},
)
