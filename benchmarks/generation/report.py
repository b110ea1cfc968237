"""Keeps what was timed on each machine; writes docs/benchmarks-running.md and its plots."""

import json
import platform
import re
import time
from pathlib import Path
from typing import Any

from cpuinfo import get_cpu_info
from rounds import added, ratio

import binq

Row = dict[str, Any]
COLORS = {"binary": "tab:green", "ternary": "tab:orange", "int4": "tab:blue"}
ORDER = ("binary", "ternary", "int4", "others")


def keep(
    rows: list[Row], folder: Path, name: str | None, prompt: int, new: int, *, add: bool = False
) -> Path:
    """Returns the file of this machine, with these rows in place of those of the same question.

    - add: their rounds are put to those that are there
    """
    brand = name or get_cpu_info().get("brand_raw", platform.machine())
    title = f"{brand}, {binq.cpu_info()['isa']}"
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    file = folder / f"{slug}.json"
    machine: Row = {"rows": []}
    if file.exists():
        machine = json.loads(file.read_text())
    same = [_question(row) for row in rows]
    if add:
        before = {_question(row): row for row in machine["rows"]}
        rows = [added(before.get(_question(row), {}), row) for row in rows]
    kept = [row for row in machine["rows"] if _question(row) not in same]
    machine |= {"title": title, "slug": slug, "date": time.strftime("%Y-%m-%d")}
    machine |= {"prompt": prompt, "new": new, "rows": kept + rows}
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row) for row in machine.pop("rows"))
    head = json.dumps(machine, indent=1).removesuffix("\n}")
    file.write_text(f'{head},\n "rows": [\n{lines}\n]}}\n')
    return file


def _question(row: Row) -> tuple[Any, ...]:
    return row["shape"], row["name"], row["threads"]


def write(results: Path, docs: Path) -> None:
    """Writes the document and a plot of each machine."""
    machines = [json.loads(file.read_text()) for file in sorted(results.glob("*.json"))]
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks-running.md").write_text(_document(machines))
    for machine in machines:
        _draw(machine, docs / "images" / f"running-{machine['slug']}.png")


def _document(machines: list[Row]) -> str:
    parts = [
        "# Benchmarks of whole models",
        "Written by `make bench-run`; do not edit. Models at the shape of real ones with random "
        "weights: binq runs what [`binq generate`](running.md#without-pytorch) runs, llama.cpp "
        "the same packed weights as a GGUF file that `binq export` wrote, the others transformers' "
        "class. "
        "All contestants of a group hold their models at once and take turns; the first round is "
        "left out. Tokens a second are from the median of all rounds, the best in brackets; `×` is "
        "by how much binq is faster than llama.cpp on the same weights, the median of single "
        "rounds, and best over best. *memory* is what the process holds, mapped files among it: "
        "PyTorch alone holds some 0.3 GB. "
        "The 4B model has 4 of its 36 layers and a fifth of its vocabulary.",
    ]
    for machine in machines:
        parts += [f"## {machine['title']}", _versions(machine)]
        parts += [f"![tokens a second](images/running-{machine['slug']}.png)"]
        for shape in dict.fromkeys(row["shape"] for row in machine["rows"]):
            parts += [f"### {shape}", _table([r for r in machine["rows"] if r["shape"] == shape])]
    return "\n\n".join(parts) + "\n"


def _versions(machine: Row) -> str:
    found = {r["library"]: r["version"] for r in machine["rows"] if "version" in r}
    listed = ", ".join(f"{library} {version}" for library, version in found.items())
    return (
        f"{machine['date']}; {listed}. A prompt of {machine['prompt']} tokens, then "
        f"{machine['new']} one by one. {machine.get('note', '')}".rstrip()
    )


def _table(rows: list[Row]) -> str:
    threads = sorted({row["threads"] for row in rows})
    head = ["", "file, MB", "memory, MB"]
    for count in threads:
        said = f"{count} thread" + ("s" if count > 1 else "")
        head += [f"prompt, {said}", "×", f"decode, {said}", "×"]
    body = []
    names = dict.fromkeys(r["name"] for r in sorted(rows, key=lambda r: ORDER.index(r["format"])))
    for name in names:
        own = {row["threads"]: row for row in rows if row["name"] == name}
        first = next(iter(own.values()))
        memory = [r["resident"] / 1e6 for r in own.values() if r.get("resident")]
        size = f"{first['file_bytes'] / 1e6:,.0f}" if first["file_bytes"] else ""
        cells = [f"**{name}**" if first["library"] == "binq" else name, size]
        cells.append(f"{max(memory):,.0f}" if memory else "")
        for count in threads:
            rival = _rival(rows, first, count)
            for kind in ("prompt", "decode"):
                cells += _cells(own.get(count), rival, kind)
        body.append(cells)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in body])


def _rival(rows: list[Row], row: Row, threads: int) -> Row | None:
    """Returns llama.cpp's row of the same weights, for a row of binq."""
    if row["library"] != "binq":
        return None
    for other in rows:
        if (other["library"], other["format"], other["threads"]) == (
            "llama.cpp",
            row["format"],
            threads,
        ):
            return other if "decode" in other else None
    return None


def _cells(row: Row | None, rival: Row | None, kind: str) -> list[str]:
    if row is None:
        return ["", ""]
    if "failure" in row:
        return [row["failure"].replace("|", "/")[:60], ""]
    faster = ""
    if rival:
        faster = ratio(row, rival, kind)
    return [f"{row[kind]:.1f} ({row[f'{kind}_best']:.1f})", faster]


def _draw(machine: Row, picture: Path) -> None:
    """Draws the tokens a second of each shape: prompt and decode, with the most threads."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [r for r in machine["rows"] if "decode" in r]
    shapes = list(dict.fromkeys(r["shape"] for r in rows))
    if not shapes:
        return
    figure, places = plt.subplots(
        len(shapes), 2, figsize=(11, 3.6 * len(shapes)), layout="constrained", squeeze=False
    )
    for line, shape in zip(places, shapes, strict=True):
        own = [r for r in rows if r["shape"] == shape]
        most = max(r["threads"] for r in own)
        for axes, kind in zip(line, ("prompt", "decode"), strict=True):
            shown = sorted((r for r in own if r["threads"] == most), key=lambda r: r[kind])
            for y, row in enumerate(shown):
                ours = row["library"] == "binq"
                color = COLORS.get(row["format"], "0.45") if ours else "0.45"
                axes.barh(y, row[kind], 0.75, color=color, alpha=1.0 if ours else 0.6)
                axes.text(row[kind], y, f" {row[kind]:.3g}", va="center", fontsize=8)
            names = [f"{r['name']}, {r['resident'] / 1e6:,.0f} MB" for r in shown]
            axes.set_yticks(range(len(shown)), names, fontsize=8)
            axes.set_xlabel(f"{kind}, tokens a second, {most} threads")
            axes.set_title(shape, fontsize=10)
            axes.margins(x=0.12)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
