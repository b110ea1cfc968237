"""What was measured on each machine: benchmarks/machines/SLUG.json, a file for each processor."""

import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import binq

FOLDER = Path(__file__).parent / "machines"
FLAGS = {"avx2", "fma", "f16c", "avx_vnni", "avx512_vnni", "asimd", "asimddp", "i8mm"}
LIBRARIES = ("numpy", "onnxruntime", "onnx", "llama-cpp-python", "gguf")

Row = dict[str, Any]


def keep(results: Row, name: str | None, note: str | None = None) -> Path:
    """Writes what pytest-benchmark measured here and returns the file.

    ``name`` is what people call the processor ("Zen 4"), where its own name says little. Rows of
    questions that were not measured this time stay as they are in the file.
    """
    cpu = results["machine_info"]["cpu"]
    isa = binq.cpu_info()["isa"]
    brand = cpu.get("brand_raw", "unknown")
    title = f"{name or brand}, {isa}"
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    family = f" (family {cpu['family']}, model {cpu['model']})" if "family" in cpu else ""
    machine = {
        "slug": slug,
        "title": title,
        "cpu": brand + family,
        "cores": cpu.get("count"),
        "flags": sorted(FLAGS & set(cpu.get("flags", ()))),
        "isa": isa,
        "python": results["machine_info"]["python_version"],
        "versions": _versions(),
        "date": results["datetime"][:10],
    } | ({"note": note} if note else {})
    measured = [_row(benchmark) for benchmark in results["benchmarks"]]
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / f"{slug}.json"
    before = json.loads(file.read_text())["rows"] if file.exists() else []
    questions = {row["question"] for row in measured}
    machine["rows"] = [row for row in before if row["question"] not in questions] + measured
    # A row a line, so that a change shows what became faster.
    rows = ",\n".join(json.dumps(row) for row in machine.pop("rows"))
    head = json.dumps(machine, indent=1).removesuffix("\n}")
    file.write_text(f'{head},\n "rows": [\n{rows}\n]}}\n')
    return file


def kept() -> list[Row]:
    """Returns what is known of every machine, in the order of their names."""
    return [json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))]


def _row(benchmark: Row) -> Row:
    row = {**benchmark["extra_info"]}
    row |= {key: benchmark["stats"][key] for key in ("median", "min", "rounds")}
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
