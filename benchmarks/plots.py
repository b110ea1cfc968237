"""Draws the pictures of docs/benchmarks.md from pytest-benchmark's rows."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
COLORS = {"binary": "tab:green", "ternary": "tab:orange", "int4": "tab:blue", "int8": "tab:red"}
OTHERS = "0.45"
STYLES = {"int8": "-", "int16": "--", "float32": ":"}
# What rivals store: drawn in the color of binq's format of that kind, with a marker of their own.
KINDS = {"Q1_0": "binary", "TQ2_0": "ternary", "Q4_0": "int4", "repacked": "int4", "Q8_0": "int8"}
KINDS |= {"Q1_0_G128": "binary", "IQ2_BN_R4": "ternary", "Q4_0_R8": "int4"}
MARKERS = {"llama.cpp": "s", "onnxruntime": "^", "ik_llama.cpp": "D"}


def _color(name: str) -> str:
    words = name.split()
    named = words[0] in ("binq", "onnxruntime")
    return COLORS.get(words[1] if named else KINDS.get(words[-1], ""), OTHERS)


def draw(machine: Row, folder: Path) -> None:
    """Writes rivals-SLUG.png, and of what was measured roofline-SLUG.png and batch-SLUG.png."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, slug = machine["rows"], machine["slug"]
    panels = {
        "1 row of x, weights in memory": [
            r for r in rows if r["question"] == "gemv" and r["where"] == "memory"
        ],
        "128 rows of x": [r for r in rows if r["question"] == "gemm" and r["rows"] == 128],
    }
    _rivals(panels, folder / f"rivals-{slug}.png")
    one_row = [r for r in rows if r["question"] == "threads" and r["rows"] == 1]
    if one_row:
        _roofline(one_row, folder / f"roofline-{slug}.png")
    batches = [r for r in rows if r["question"] == "batch"]
    if batches:
        _batch(batches, folder / f"batch-{slug}.png")


def _rivals(panels: dict[str, list[Row]], picture: Path) -> None:
    """Draws a panel for each title: binq's integer modes and all others by speed."""
    figure, places = plt.subplots(1, len(panels), figsize=(10, 4.2), layout="constrained")
    for axes, (title, rows) in zip(places, panels.items(), strict=True):
        shown = [r for r in rows if not (r["name"].startswith("binq") and "float32" in r["name"])]
        shown.sort(key=lambda r: r["products"] / r["median"])
        for y, row in enumerate(shown):
            ours = row["name"].startswith("binq")
            speed = row["products"] / row["median"] / 1e9
            color = _color(row["name"]) if ours else OTHERS
            axes.barh(y, speed, 0.75, color=color, alpha=1.0 if ours else 0.6)
            axes.text(speed, y, f" {speed:.0f}", va="center", fontsize=8)
        names = [f"{r['name']}, {r['bits_per_weight']:.4g} bits" for r in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=8)
        axes.set_xlabel("G products a second, 1 thread")
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _roofline(rows: list[Row], picture: Path) -> None:
    names = list(dict.fromkeys(r["name"] for r in rows))
    figure, axes = plt.subplots(figsize=(8, 1 + 0.4 * len(names)), layout="constrained")
    for threads, shade in ((1, 0.45), (2, 1.0)):
        for i, name in enumerate(names):
            row = next(r for r in rows if r["name"] == name and r["threads"] == threads)
            nbytes = row["products"] * row["bits_per_weight"] / 8
            share = nbytes / row["median"] / max(row["bandwidth"])
            y = i + (0.2 if threads == 2 else -0.2)
            color = _color(name) if name.startswith("binq") else OTHERS
            axes.barh(y, share, 0.38, color=color, alpha=shade)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(share + 0.01, y, f"{share:.0%}", va="center", fontsize=8, bbox=box)
    axes.axvline(1.0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(names)), [n.removeprefix("binq ") for n in names])
    axes.set_xlabel(
        "weight bytes a second / the most that so many threads can read (pale: 1, full: 2)"
    )
    axes.set_title("One row of x, weights in memory: how near to the memory's own speed")
    axes.set_xlim(0, max(1.1, axes.dataLim.x1 + 0.1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def _batch(rows: list[Row], picture: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    speeds = []
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = sorted((r for r in rows if r["name"] == name), key=lambda r: r["rows"])
        library, mode = name.split()[0], name.split()[-1]
        x = [r["rows"] for r in mine]
        y = [r["products"] / r["median"] / 1e9 for r in mine]
        style = STYLES.get(mode, "-") if library == "binq" else "-"
        marker = MARKERS.get(library, "o")
        width = 1.5 if library == "binq" else 0.8
        axes.plot(
            x,
            y,
            style,
            color=_color(name),
            marker=marker,
            markersize=4,
            linewidth=width,
            label=name,
        )
        speeds += y
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({r["rows"] for r in rows})
    axes.set_xticks(ticks, [str(n) for n in ticks])
    steps = [m * 10**e for e in range(4) for m in (1, 2, 5)]
    inside = [t for t in steps if min(speeds) / 2 < t < max(speeds) * 2]
    axes.set_yticks(inside, [str(t) for t in inside])
    axes.minorticks_off()
    axes.set_xlabel("rows of x")
    axes.set_ylabel("G products a second, 1 thread")
    axes.set_title("Speed over batch size, weights in cache")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
