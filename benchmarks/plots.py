"""Draws the pictures of docs/benchmarks.md from pytest-benchmark's rows."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]
COLORS = {"binary": "tab:green", "ternary": "tab:orange", "int4": "tab:blue", "numpy": "0.45"}
STYLES = {"int8": "-", "int16": "--", "float32": ":"}


def draw(benchmarks: list[Row], folder: Path) -> None:
    """Writes rivals.png, roofline.png and batch.png into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**b["extra_info"], "median": b["stats"]["median"]} for b in benchmarks]
    panels = {
        "1 row of x, weights in memory": [
            r for r in rows if r["question"] == "gemv" and r["where"] == "memory"
        ],
        "128 rows of x": [r for r in rows if r["question"] == "gemm" and r["rows"] == 128],
    }
    rivals(panels, folder)
    _roofline([r for r in rows if r["question"] == "threads" and r["rows"] == 1], folder)
    _batch([r for r in rows if r["question"] == "batch"], folder)


def rivals(panels: dict[str, list[Row]], folder: Path) -> None:
    """Writes rivals.png: a panel for each title, binq's integer modes and all others by speed."""
    figure, places = plt.subplots(1, len(panels), figsize=(10, 4.2), layout="constrained")
    for axes, (title, rows) in zip(places, panels.items(), strict=True):
        shown = [r for r in rows if not (r["name"].startswith("binq") and "float32" in r["name"])]
        shown.sort(key=lambda r: r["products"] / r["median"])
        for y, row in enumerate(shown):
            ours = row["name"].startswith("binq")
            speed = row["products"] / row["median"] / 1e9
            color = COLORS[row["name"].split()[1]] if ours else COLORS["numpy"]
            axes.barh(y, speed, 0.75, color=color, alpha=1.0 if ours else 0.6)
            axes.text(speed, y, f" {speed:.0f}", va="center", fontsize=8)
        names = [f"{r['name']}, {r['bits_per_weight']:.4g} bits" for r in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=8)
        axes.set_xlabel("G products a second, 1 thread")
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "rivals.png", dpi=120)
    plt.close(figure)


def _roofline(rows: list[Row], folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    names = list(dict.fromkeys(r["name"] for r in rows))
    for threads, shade in ((1, 0.45), (2, 1.0)):
        for i, name in enumerate(names):
            row = next(r for r in rows if r["name"] == name and r["threads"] == threads)
            nbytes = row["products"] * row["bits_per_weight"] / 8
            share = nbytes / row["median"] / row["bandwidth"]
            y = i + (0.2 if threads == 2 else -0.2)
            axes.barh(y, share, 0.38, color=COLORS[name.split()[1]], alpha=shade)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(share + 0.01, y, f"{share:.0%}", va="center", fontsize=8, bbox=box)
    axes.axvline(1.0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(names)), [n.removeprefix("binq ") for n in names])
    axes.set_xlabel("weight bytes a second / read bandwidth (pale: 1 thread, full: 2)")
    axes.set_title("One row of x, weights in memory: how near to the memory's own speed")
    # Room for the numbers. More than a plain loop reads is possible: the kernels ask ahead.
    axes.set_xlim(0, max(1.15, axes.dataLim.x1 + 0.1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "roofline.png", dpi=120)
    plt.close(figure)


def _batch(rows: list[Row], folder: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = sorted((r for r in rows if r["name"] == name), key=lambda r: r["rows"])
        words = name.split()
        key, mode = (words[0], "int8") if words[0] == "numpy" else (words[1], words[2])
        x = [r["rows"] for r in mine]
        y = [r["products"] / r["median"] / 1e9 for r in mine]
        axes.plot(x, y, STYLES[mode], color=COLORS[key], marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(x, [str(n) for n in x])
    ticks = [5, 10, 20, 50, 100, 200, 300]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("rows of x")
    axes.set_ylabel("G products a second, 1 thread")
    axes.set_title("Speed over batch size, weights in cache")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "batch.png", dpi=120)
    plt.close(figure)
