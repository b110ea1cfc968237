"""Builds the native modules one after another and prints what each costs.

    python tests/build_seconds.py [MODULE ...]

Processor seconds of Cython and of the C compiler with all that it starts, and the size of what
comes out: of what pip installs, so without the kernel sets that only tests run. Loading Cython
counts for the first module. Nothing is installed: it is built in a temporary folder.
"""

import resource
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock


def seconds():
    """Returns the processor time of this process, where Cython runs, and of finished children."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def timed(build_ext, only, rows):
    """Returns setup.py's build_ext as one that builds ``only`` and appends to ``rows``."""

    class Timed(build_ext):
        def set_flags(self, ext, msvc, macros):
            wanted = not only or ext.name.rpartition(".")[2] in only
            return super().set_flags(ext, msvc, macros) and wanted

        def run_cython(self, *args):
            begun = seconds()
            super().run_cython(*args)
            self.cython_seconds = seconds() - begun

        def build_extension(self, ext):
            begun = seconds()
            super().build_extension(ext)
            size = Path(self.get_ext_fullpath(ext.name)).stat().st_size
            cython = self.cython_seconds
            rows.append((ext.name, cython, seconds() - begun - cython, size))

    return Timed


def main():
    rows = []
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path("setup.py")
    keywords = setup.call_args.kwargs
    build_ext = timed(keywords["cmdclass"]["build_ext"], sys.argv[1:], rows)
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"--build-lib={folder}", f"--build-temp={folder}/temp"]
        sys.argv[1:] = ["-q", "build_ext", "--force", "--parallel=1", *folders]
        from setuptools import setup

        setup(**keywords | {"cmdclass": {"build_ext": build_ext}})
    cython, c, size = (sum(column) for column in list(zip(*rows, strict=True))[1:])
    print(f"{'module':32} {'Cython':>7} {'C':>7} {'KB':>6}")
    for name, *row in [*sorted(rows), (f"sum: {cython + c:.1f} s", cython, c, size)]:
        print(f"{name:32} {row[0]:7.1f} {row[1]:7.1f} {row[2] / 1000:6.0f}")


if __name__ == "__main__":
    main()
