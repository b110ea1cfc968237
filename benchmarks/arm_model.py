"""Prints how many products a cycle the ARM kernels make by LLVM's models of four processors.

    python benchmarks/arm_model.py [--ggml FOLDER] [--kleidiai FOLDER]

A model, not a measurement: llvm-mca knows pipes and latencies, not caches or memory. It takes the
inner loops of each kernel as GCC compiles them. LLVM models apple-m1 as Cyclone (2013) and
cortex-a76 as Cortex-A57; smmla has numbers of its own only for neoverse-v2.

Needs aarch64-linux-gnu-gcc and llvm-mca 19 or newer (Debian: gcc-aarch64-linux-gnu, llvm-19).
The loops of llama.cpp and KleidiAI for the same formats are compiled with the same compiler for
the same instruction set; their checkouts are only read. Those of llama.cpp hold the scales of 32 k,
ours none: they come once a group, 40 vector operations for 32 columns.
"""

import argparse
import contextlib
import functools
import math
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
GCC = "aarch64-linux-gnu-gcc"
PROCESSORS = ("neoverse-n1", "neoverse-v2", "cortex-a76", "apple-m1")
WITH_I8MM = ("neoverse-v2",)
ITERATIONS = 300
# Labels of a compiler (.L7), of inline assembly (7: and 7b) and of KleidiAI (label_7).
BRANCH = re.compile(r"\s*(?:b\.?[a-z]{2}|cbn?z|tbn?z|b)\s+(?:.*,\s*)?(\.L\w+|\d+b|label_\d+)\s*$")
LABEL = re.compile(r"\s*([\w.$]+):")
TARGET = re.compile(r"(?<=\s)(\.L\w+|\d+b|label_\d+)$")
# An instruction that an assembler need not know, with its text in a comment.
ENCODED = re.compile(r"\.inst\s+0x[0-9a-f]+\s*//\s*")


class Loop(NamedTuple):
    """An innermost loop: the function it is in and its instructions."""

    function: str
    instructions: tuple[str, ...]

    def count(self, *names: str) -> int:
        return sum(line.split()[0] in names for line in self.instructions)


class Rival(NamedTuple):
    """A loop for the same work: the project, a source file of it, and a function in that."""

    title: str
    project: str
    file: str
    function: str


class Row(NamedTuple):
    """A line of the table: the loop of a kernel, and loops of rivals for the same work."""

    title: str
    isa: str
    function: str
    instructions: int
    """How many instructions of products the loop has: a function has one for each shape."""
    rivals: tuple[Rival, ...] = ()
    planes: int = 1
    """Products of bytes that make one of a weight and an activation: 2 for int16 by sdot, smmla."""
    per_tbl: float = 0.0
    """Products that one look-up serves."""
    weighted: int = 0
    """Multiplications by what a plane counts: in loops by tables those of int2 and int3 alone."""


def ggml(title: str, function: str, file: str = "repack.cpp") -> tuple[Rival, ...]:
    return (Rival(f"llama.cpp {title}", "ggml", f"arch/arm/{file}", f"ggml_{function}"),)


def kleidiai(name: str) -> tuple[Rival, ...]:
    function = f"kai_kernel_matmul_clamp_f32_{name}"
    return (Rival("KleidiAI", "kleidiai", f"kai_matmul_clamp_f32_{name}_asm.S", function),)


TQ2 = ggml("TQ2_0", "vec_dot_tq2_0_q8_K", "quants.c")
Q2_K = ggml("Q2_K", "vec_dot_q2_K_q8_K", "quants.c")
Q3_K = ggml("Q3_K", "vec_dot_q3_K_q8_K", "quants.c")
KAI_2 = kleidiai("qai8dxp1x4_qsu2cxp4x4bf32sf32_1x4_neon_dotprod")
KAI_2_MANY = kleidiai("qai8dxp4x4_qsu2cxp4x4bf32sf32_8x4_neon_dotprod")
KAI_4 = kleidiai("qai8dxp1x4_qsi4c32p4x4_1x4_neon_dotprod")
KAI_4_MANY = kleidiai("qai8dxp4x4_qsi4c32p4x4_16x4_neon_dotprod")
KAI_4_I8MM = kleidiai("qai8dxp4x8_qsi4c32p4x8_16x4x32_neon_i8mm")
KAI_8 = kleidiai("qai8dxp1x4_qsi8cxp4x4_1x4_neon_dotprod")
KAI_8_I8MM = kleidiai("qai8dxp4x8_qsi8cxp4x8_16x4_neon_i8mm")


def tables(format: str, isa_rivals: tuple[Rival, ...], planes: int, weighted: bool) -> list[Row]:
    """Returns the rows of one row of x by tables: of 2 digits (int8) and of 3 (int16).

    A look-up serves 16 rows of weights by 4 k, for one digit and plane.
    """
    # A turn takes eight look-ups of a digit and half a tile: 16 rows of int2 and int3, else 32.
    turn = 8 * planes if weighted else 16
    return [
        Row(
            f"{format} {mode}, 1 row",
            "neon",
            "lut_gemv_multiply",
            turn * digits,
            isa_rivals if mode == "int8" else (),
            per_tbl=64 / (planes * digits),
            weighted=2 * digits * (planes - 1) if weighted else 0,
        )
        for mode, digits in (("int8", 2), ("int16", 3))
    ]


def few(format: str, function: str, rivals: tuple[Rival, ...], look_ups: int) -> list[Row]:
    """Returns the rows of one row of x by codes as they are stored."""
    return [
        Row(f"{format} int8, 1 row", "dotprod", function, 32 + look_ups, rivals),
        Row(f"{format} int16, 1 row", "dotprod", function, 64 + look_ups, planes=2),
    ]


def many(format: str, dotprod: tuple[Rival, ...], i8mm: tuple[Rival, ...]) -> list[Row]:
    """Returns the rows of many rows of x, by unpacked codes: one loop serves all formats."""
    return [
        Row(f"{format} int8, many", "dotprod", "plane_multiply", 96, dotprod),
        Row(f"{format} int8, many", "i8mm", "pair_multiply", 24, i8mm),
    ]


ROWS = (
    *tables("binary", ggml("Q1_0", "gemv_q1_0_4x4_q8_0"), 1, False),
    *many("binary", ggml("Q1_0", "gemm_q1_0_4x4_q8_0"), ggml("Q1_0", "gemm_q1_0_4x8_q8_0")),
    *tables("ternary", TQ2, 2, False),
    *many("ternary", TQ2, TQ2),
    *tables("int2", (*Q2_K, *KAI_2), 2, True),
    *many("int2", (*Q2_K, *KAI_2_MANY), Q2_K),
    *tables("int3", Q3_K, 3, True),
    *many("int3", Q3_K, Q3_K),
    *few("int4", "nibble_multiply", (*ggml("Q4_0", "gemv_q4_0_4x4_q8_0"), *KAI_4), 0),
    *many(
        "int4",
        (*ggml("Q4_0", "gemm_q4_0_4x4_q8_0"), *KAI_4_MANY),
        (*ggml("Q4_0", "gemm_q4_0_4x8_q8_0"), *KAI_4_I8MM),
    ),
    *few("mxfp4", "level_multiply", ggml("MXFP4", "gemv_mxfp4_4x4_q8_0"), 32),
    *many(
        "mxfp4",
        ggml("MXFP4", "gemm_mxfp4_4x4_q8_0"),
        ggml("MXFP4", "gemm_mxfp4_4x4_q8_0"),
    ),
    *few("iq4nl", "level_multiply", ggml("IQ4_NL", "gemv_iq4_nl_4x4_q8_0"), 32),
    *many(
        "iq4nl",
        ggml("IQ4_NL", "gemm_iq4_nl_4x4_q8_0"),
        ggml("IQ4_NL", "gemm_iq4_nl_4x4_q8_0"),
    ),
    *few("int8", "byte_multiply", (*ggml("Q8_0", "gemv_q8_0_4x4_q8_0"), *KAI_8), 0),
    *many(
        "int8",
        ggml("Q8_0", "gemm_q8_0_4x4_q8_0"),
        (*ggml("Q8_0", "gemm_q8_0_4x8_q8_0"), *KAI_8_I8MM),
    ),
    Row("all int16, many", "dotprod", "plane_multiply", 96, planes=2),
    Row("all int16, many", "i8mm", "pair_multiply", 24, planes=2),
)


def innermost_loops(assembly: str) -> Iterator[Loop]:
    """Yields the loops without a loop inside, from assembly for aarch64."""
    lines = [re.sub(r"\s*//.*", "", ENCODED.sub("", line)) for line in assembly.split("\n")]
    labels: dict[str, int] = {}
    found = []
    function = ""
    for number, line in enumerate(lines):
        if label := LABEL.match(line):
            name = label[1] + "b" if label[1].isdecimal() else label[1]
            labels[name] = number
            if not name.startswith((".", "label_")) and not label[1].isdecimal():
                function = name
        elif (branch := BRANCH.match(line)) and branch[1] in labels:
            found.append((labels[branch[1]], number, function))
    for begin, end, name in found:
        if any((b, e) != (begin, end) and b >= begin and e <= end for b, e, _ in found):
            continue
        body = [LABEL.sub("", line, count=1).strip() for line in lines[begin : end + 1]]
        yield Loop(name, tuple(line for line in body if line and line[0] not in ".#"))


@functools.cache
def cycles(loop: Loop, processor: str) -> float:
    """Returns the cycles that llvm-mca's model of a processor gives one turn of a loop."""
    text = "\n".join(TARGET.sub("loop", x) for x in loop.instructions)
    command = [llvm_mca(), "-mtriple=aarch64", f"-mcpu={processor}", "-mattr=+dotprod,+i8mm"]
    done = subprocess.run(
        [*command, f"-iterations={ITERATIONS}"], input=text, capture_output=True, text=True
    )
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        sys.exit(f"llvm-mca does not read a loop of {loop.function}: {done.stderr[:500]}")
    return int(total[1]) / ITERATIONS


def llvm_mca() -> str:
    names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(30, 18, -1))]
    return next((path for name in reversed(names) if (path := shutil.which(name))), "llvm-mca")


def products(loop: Loop, per_tbl: float = 0.0) -> float:
    """Returns how many products of bytes one turn of a loop adds up."""
    return 16 * loop.count("sdot") + 32 * loop.count("smmla") + per_tbl * loop.count("tbl")


def own_loop(loops: list[Loop], row: Row) -> Loop:
    """Returns the loop of one of our kernels: of several with as many products, the slowest."""
    found = [
        loop
        for loop in loops
        if loop.function.endswith(f"{row.isa}_{row.function}")
        and loop.count("sdot", "smmla", "tbl") == row.instructions
        and loop.count("umlal", "umlal2") == row.weighted
    ]
    if not found:
        sys.exit(f"{row.function} of {row.isa} has no loop of {row.instructions} products")
    return max(found, key=lambda loop: sum(cycles(loop, cpu) for cpu in PROCESSORS))


def rival_loop(loops: list[Loop], function: str) -> Loop:
    """Returns the loop of a function that makes the most products."""
    found = [loop for loop in loops if loop.function == function and products(loop)]
    if not found:
        sys.exit(f"no loop of products was found in {function}")
    return max(found, key=products)


def compile_kernels(isa: str, folder: Path) -> list[Loop]:
    """Returns the loops of a kernel set of ours, compiled with the flags of setup.py."""
    with mock.patch("setuptools.setup"), contextlib.chdir(ROOT):
        namespace = runpy.run_path("setup.py")
    row = next(row for row in namespace["ISAS"]["ISAS"] if row.name == isa)
    source = ROOT / namespace["source"](row.module)
    directives = [w for k, on in namespace["DIRECTIVES"].items() for w in ("-X", f"{k}={on}")]
    target = folder / f"{isa}.c"
    cython = [sys.executable, "-m", "cython", "--module-name", row.module, *directives]
    subprocess.run([*cython, "-I", str(ROOT / "src"), "-o", str(target), str(source)], check=True)
    inline = f"-DCYTHON_INLINE={namespace['FORCE_INLINE'][False]}"
    flags = ["-O3", *namespace["UNIX_FLAGS"], *namespace["GCC_KERNEL_FLAGS"], *row.unix, inline]
    native = ROOT / "src/binq/_native"
    # The kernels' include files are found beside the sources, Python's are those of this machine.
    includes = [f"-I{native}", f"-I{native / 'common'}", f"-I{sysconfig.get_path('include')}"]
    return compiled([GCC, *flags, *includes, str(target)], folder)


@functools.cache
def compile_rival(file: str, checkout: Path, isa: str, folder: Path) -> list[Loop]:
    """Returns the loops of one file of another project, for the same instruction set."""
    source = next(checkout.rglob(file))
    if source.suffix == ".S":
        # Written in macros that stand for labels and for encoded instructions.
        text = re.sub(r"KAI_ASM_INST\((\w+)\)", r".inst \1", source.read_text())
        for name in re.findall(r"KAI_ASM_LABEL\(([A-Z]\w+)\)", text):
            text = re.sub(rf"\b{name}\b", f".L{name}", text)
        return list(innermost_loops(re.sub(r"KAI_ASM\w*LABEL\(([.\w]+)\)", r"\1:", text)))
    march = "armv8.6-a+dotprod+i8mm" if isa == "i8mm" else "armv8.2-a+dotprod"
    compiler = [GCC.replace("gcc", "g++"), "-std=c++17"] if source.suffix == ".cpp" else [GCC]
    root = source.parents[4]  # of src/ggml-cpu/arch/arm
    includes = [f"-I{root / part}" for part in ("include", "src", "src/ggml-cpu")]
    return compiled([*compiler, "-O3", f"-march={march}", *includes, str(source)], folder)


def compiled(command: list[str], folder: Path) -> list[Loop]:
    target = folder / "loops.s"
    subprocess.run([*command, "-w", "-S", "-o", str(target)], check=True)
    return list(innermost_loops(target.read_text()))


def rates(loop: Loop, isa: str, planes: int = 1, per_tbl: float = 0.0) -> list[float]:
    """Returns the products a cycle, NaN where the model of a processor has not the instructions."""
    return [
        products(loop, per_tbl) / planes / cycles(loop, cpu)
        if isa != "i8mm" or cpu in WITH_I8MM
        else math.nan
        for cpu in PROCESSORS
    ]


def line(row: Row, loops: list[Loop], rivals: dict[str, list[float]]) -> str:
    """Returns a line of the table, with each rival's speed under our own."""
    loop = own_loop(loops, row)
    own = rates(loop, row.isa, row.planes, row.per_tbl)
    cells = [f"**{rate:.1f}**" for rate in own]
    for other in rivals.values():
        cells = [f"{c}, {b:.1f} ({a / b:.2f}x)" for c, a, b in zip(cells, own, other, strict=True)]
    cells = ["" if math.isnan(rate) else cell for rate, cell in zip(own, cells, strict=True)]
    names = ", ".join(["binq", *rivals])
    return f"| {row.title} | {row.isa} | {' | '.join(cells)} | {names} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ggml", type=Path, help="folder ggml of a llama.cpp checkout")
    parser.add_argument("--kleidiai", type=Path, help="a KleidiAI checkout")
    checkouts = {name: path for name, path in vars(parser.parse_args()).items() if path}
    for tool in (GCC, llvm_mca()):
        if shutil.which(tool) is None:
            sys.exit(f"skipped: {tool} is not installed (apt-get install {GCC} llvm-19)")
    print(f"| kernel | set | {' | '.join(PROCESSORS)} | whose |")
    print("|---|---|" + "---|" * (len(PROCESSORS) + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = {isa: compile_kernels(isa, folder) for isa in sorted({row.isa for row in ROWS})}
        for row in ROWS:
            rivals = {}
            for rival in row.rivals:
                if rival.project in checkouts:
                    theirs = compile_rival(rival.file, checkouts[rival.project], row.isa, folder)
                    rivals[rival.title] = rates(rival_loop(theirs, rival.function), row.isa)
            print(line(row, ours[row.isa], rivals), flush=True)


if __name__ == "__main__":
    main()
