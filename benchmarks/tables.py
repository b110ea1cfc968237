"""Turns pytest-benchmark's JSON into docs/benchmarks.md: one table a question."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Row = dict[str, Any]
RIVALS = ("numpy", "onnxruntime", "onnx", "llama-cpp-python", "gguf")


def document(results: Row) -> str:
    """Returns the whole of docs/benchmarks.md."""
    rows = [_flat(b) for b in results["benchmarks"]]
    cpu = results["machine_info"]["cpu"]
    flags = sorted(set(cpu.get("flags", ())) & {"avx2", "fma", "f16c", "avx512_vnni", "asimd"})
    parts = [
        "# Benchmarks",
        "Written by `make bench`; do not edit. Every row carries its storage and its error, so "
        "that no speed is bought with silent error: *error* is the root mean square of "
        "y − x·Wᵀ over that of x·Wᵀ, W the float weights before quantization (Gaussian, 4096 × "
        "4096 unless said). Speed is from the median, with the fastest run behind it; 1 thread "
        "unless said.",
        f"Machine: {cpu.get('brand_raw', 'unknown')}, {cpu.get('count', '?')} cores, "
        f"{', '.join(flags)}. Python {results['machine_info']['python_version']}, "
        + ", ".join(_versions())
        + f". {results['datetime'][:10]}.",
        "binq runs the kernels that `binq.cpu_info()` names; onnxruntime chooses its own (AVX-512 "
        "VNNI where the machine has it), llama.cpp runs what its build was compiled for.",
        "## One row of x",
        "Weights in memory: the matrices of a rotation of more than 100 MB take turns.",
        _speeds([r for r in rows if r["question"] == "gemv" and r["where"] == "memory"]),
        "![bytes a second over bandwidth](images/roofline.png)",
        "Weights in cache: the same matrix again and again.",
        _speeds([r for r in rows if r["question"] == "gemv" and r["where"] == "cache"]),
        "## Several rows of x",
    ]
    gemm = [r for r in rows if r["question"] == "gemm"]
    for n in sorted({r["rows"] for r in gemm}):
        parts += [f"### {n} rows", _speeds([r for r in gemm if r["rows"] == n])]
    parts += ["## Speed over batch size", "![speed over batch size](images/batch.png)"]
    parts += ["## Threads", _threads([r for r in rows if r["question"] == "threads"])]
    parts += ["## Matrices of real models"]
    models = [r for r in rows if r["question"] == "models"]
    for model in dict.fromkeys(r["model"] for r in models):
        for n in sorted({r["rows"] for r in models}):
            chosen = [r for r in models if r["model"] == model and r["rows"] == n]
            parts += [f"### {model} ({chosen[0]['shape']}), {n} rows", _speeds(chosen)]
    parts += ["## Quantize and dequantize", "GB of float32 a second, one thread; *error* is the "]
    parts[-1] += "relative mean square error of the weights."
    parts += [_quantize([r for r in rows if r["question"] in ("quantize", "dequantize")])]
    parts += ["## Cost of a call", _overhead([r for r in rows if r["question"] == "overhead"])]
    return "\n\n".join(parts) + "\n"


def _flat(benchmark: Row) -> Row:
    stats = benchmark["stats"]
    return {**benchmark["extra_info"], "median": stats["median"], "min": stats["min"]}


def _versions() -> Iterable[str]:
    for name in RIVALS:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _table(head: list[str], body: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


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
                share = f"{nbytes / two['median'] / two['bandwidth']:.0%}"
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
