"""Turns what was measured on each machine into docs/benchmarks.md: one table a question."""

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
BLAS = {"numpy": ("numpy float32",)}
# Rivals that store the same kind of weights; of several the fastest counts.
KINDS = {
    "binary": {
        "llama.cpp Q1_0": ("llama.cpp Q1_0",),
        "ik_llama.cpp Q1_0_G128": ("ik_llama.cpp Q1_0_G128",),
        **BLAS,
    },
    "ternary": {
        "llama.cpp TQ2_0": ("llama.cpp TQ2_0",),
        "ik_llama.cpp IQ2_BN_R4": ("ik_llama.cpp IQ2_BN_R4",),
        **BLAS,
    },
    "int4": {
        "llama.cpp Q4_0, repacked or not": ("llama.cpp Q4_0", "llama.cpp Q4_0 repacked"),
        "ik_llama.cpp Q4_0_R8": ("ik_llama.cpp Q4_0_R8",),
        "onnxruntime, blocks of 128 or 32": ("onnxruntime int4 g128", "onnxruntime int4 g32"),
        **BLAS,
    },
    "int8": {
        "llama.cpp Q8_0": ("llama.cpp Q8_0",),
        "onnxruntime, blocks of 128 or 32": ("onnxruntime int8 g128", "onnxruntime int8 g32"),
        **BLAS,
    },
}
_RATIOS = """How many times as fast, by median and (in brackets) by fastest run, one row of x with \
the weights in memory, more with the weights in cache. int8 is what the rivals do with x inside \
(llama.cpp, onnxruntime at accuracy_level 4); int16 is binq's default."""
_BANDWIDTH = """Read bandwidth: what two threads read that do nothing else, with the best of 1, 2, \
4, 8 and 16 streams side by side (`python benchmarks/bandwidth.py`). The kernels ask for what they \
read next, and can be faster than that."""
_QUANTIZE = """GB of float32 a second, one thread; *error* is the relative mean square error of \
the weights."""
_INTRODUCTION = """Written by `make bench`; do not edit. One section for each processor and set \
of kernels that was measured, the rows of a table in one run. Every row carries its storage and \
its error, so that no speed is bought with silent error: *error* is the root mean square of \
y − x·Wᵀ over that of x·Wᵀ, W the float weights before quantization (Gaussian, 4096 × 4096 unless \
said). Speed is from the median, with the fastest run behind it; 1 thread unless said.

onnxruntime chooses its own kernels (AVX-512 VNNI where the machine has it, whatever binq runs), \
and llama.cpp runs what its build was compiled for; `BINQ_BENCH_LLAMA=FOLDER` takes the \
libggml*.so of another build. `binq bench` measures your machine in seconds; `make bench` adds a \
section for it here. Its first run compiles llama.cpp, which takes ten minutes; later ones use \
what it built. Whole models, tokens a second and memory: [benchmarks of whole \
models](benchmarks-running.md). Where you have built ik_llama.cpp, \
`BINQ_BENCH_IK=FOLDER make bench` (the folder that holds libggml.so) adds its types."""


def document(machines: Sequence[Row]) -> str:
    """Returns the whole of docs/benchmarks.md."""
    parts = ["# Benchmarks", _INTRODUCTION]
    for machine in machines:
        parts += _section(machine)
    return "\n\n".join(parts) + "\n"


def _section(machine: Row) -> list[str]:
    rows, slug = machine["rows"], machine["slug"]
    parts = [
        f"## {machine['title']}",
        f"{machine['cpu']}, {machine['cores']} cores, {', '.join(machine['flags'])}; binq's "
        f"`{machine['isa']}` kernels. Python {machine['python']}, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f". {machine['date']}.",
        *([machine["note"]] if "note" in machine else []),
        f"![speed beside the rivals](images/rivals-{slug}.png)",
        "### Beside the rivals of its own kind",
        _RATIOS,
        _ratios(rows),
        "### One row of x",
        "Weights in memory: the matrices of a rotation of more than 100 MB take turns.",
        _speeds([r for r in rows if r["question"] == "gemv" and r["where"] == "memory"]),
    ]
    cached = [r for r in rows if r["question"] == "gemv" and r["where"] == "cache"]
    if cached:
        parts += ["Weights in cache: the same matrix again and again.", _speeds(cached)]
    gemm = [r for r in rows if r["question"] == "gemm"]
    for n in sorted({r["rows"] for r in gemm}):
        parts += [f"### {n} rows of x", _speeds([r for r in gemm if r["rows"] == n])]
    asked = {r["question"] for r in rows}
    if "batch" in asked:
        parts += ["### Speed over batch size", f"![speed over batch size](images/batch-{slug}.png)"]
    if "threads" in asked:
        parts += ["### Threads", _BANDWIDTH, f"![roofline](images/roofline-{slug}.png)"]
        parts += [_threads([r for r in rows if r["question"] == "threads"])]
    models = [r for r in rows if r["question"] == "models"]
    if models:
        parts += ["### Matrices of real models"]
    for model in dict.fromkeys(r["model"] for r in models):
        for n in sorted({r["rows"] for r in models}):
            chosen = [r for r in models if r["model"] == model and r["rows"] == n]
            parts += [f"#### {model} ({chosen[0]['shape']}), {n} rows", _speeds(chosen)]
    if "quantize" in asked:
        parts += ["### Quantize and dequantize", _QUANTIZE]
        parts += [_quantize([r for r in rows if r["question"] in ("quantize", "dequantize")])]
    if "overhead" in asked:
        parts += ["### Cost of a call"]
        parts += [_overhead([r for r in rows if r["question"] == "overhead"])]
    return parts


def _table(head: list[str], body: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def _ratios(rows: list[Row]) -> str:
    """Returns binq's speed over that of the best rival of its kind, for 1, 8, 128 and 512 rows."""
    speeds: dict[tuple[str, int], dict[str, float]] = {}
    for r in rows:
        if r["question"] == "gemm" or (r["question"] == "gemv" and r["where"] == "memory"):
            speeds[r["name"], r["rows"]] = {k: r["products"] / r[k] for k in ("median", "min")}
    batches = sorted({n for _, n in speeds})
    body = []
    for name in dict.fromkeys(name for name, _ in speeds):
        if not name.startswith("binq"):
            continue
        for label, kinds in KINDS[name.split()[1]].items():
            if not any((kind, n) in speeds for kind in kinds for n in batches):
                continue  # not installed where this was measured
            cells = []
            for n in batches:
                best = [speeds[k, n] for k in kinds if (k, n) in speeds]
                ratios = [
                    speeds[name, n][k] / max(b[k] for b in best) if best else 0.0
                    for k in ("median", "min")
                ]
                cells.append(f"{ratios[0]:.2f}x ({ratios[1]:.2f}x)" if best else "–")
            body.append([name, label, *cells])
    head = ["", "rival", *(f"{n} row{'s' if n > 1 else ''}" for n in batches)]
    return _table(head, body)


def _speeds(rows: list[Row]) -> str:
    rivals = [r for r in rows if not r["name"].startswith("binq")]
    best = max((r["products"] / r["median"] for r in rivals), default=0.0)
    body = []
    for r in sorted(rows, key=lambda r: r["median"] / r["products"]):
        speed = r["products"] / r["median"]
        body.append(
            [
                f"**{r['name']}**" if r["name"].startswith("binq") else r["name"],
                f"{r['bits_per_weight']:.3f}",
                f"{r['error']:.2e}",
                f"{r['median'] / r['copies'] * 1e6:,.0f}",
                f"{r['min'] / r['copies'] * 1e6:,.0f}",
                f"{speed / 1e9:.1f}",
                f"{speed / best:.2f}x" if best else "–",
            ]
        )
    head = ["", "bits/weight", "error", "median µs", "min µs", "G products/s", "of best rival"]
    return _table(head, body)


def _threads(rows: list[Row]) -> str:
    body = []
    for name in dict.fromkeys(r["name"] for r in rows):
        for n in sorted({r["rows"] for r in rows}):
            one, two = (
                next(r for r in rows if (r["name"], r["rows"], r["threads"]) == (name, n, t))
                for t in (1, 2)
            )
            share = "–"
            if two["bandwidth"]:
                nbytes = two["products"] / n * two["bits_per_weight"] / 8
                share = f"{nbytes / two['median'] / max(two['bandwidth']):.0%}"
            body.append(
                [
                    name,
                    str(n),
                    f"{one['products'] / one['median'] / 1e9:.1f}",
                    f"{two['products'] / two['median'] / 1e9:.1f}",
                    f"{one['median'] / two['median']:.2f}x",
                    share,
                ]
            )
    head = ["", "rows", "1 thread, G products/s", "2 threads", "gain", "of read bandwidth (2)"]
    return _table(head, body)


def _quantize(rows: list[Row]) -> str:
    return _table(
        ["", "input", "GB/s", "bits/weight", "error"],
        (
            [
                r["name"],
                r["dtype"],
                f"{r['float32_bytes'] / r['median'] / 1e9:.3f}",
                f"{r['bits_per_weight']:.3f}",
                f"{r['error']:.4f}",
            ]
            for r in rows
        ),
    )


def _overhead(rows: list[Row]) -> str:
    return _table(
        ["", "matrix", "median µs", "min µs"],
        (
            [r["name"], r["shape"], f"{r['median'] * 1e6:.2f}", f"{r['min'] * 1e6:.2f}"]
            for r in rows
        ),
    )
