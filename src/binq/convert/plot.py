"""Pictures of a conversion: what takes the room, and where the error is."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from binq.convert.tables import shown as shown_text
from binq.convert.tensor_report import TensorReport

_MOST_PARTS = 12


def draw(title: str, tensors: Sequence[TensorReport], path: Path) -> None:
    """Writes one picture to ``path``; its suffix says PNG, SVG or PDF.

    It has three parts, and a fourth where formats were chosen for a size: the bits of each layer.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [t for t in tensors if t.expected_loss is not None]
    count = 4 if chosen else 3
    figure, parts = plt.subplots(1, count, figsize=(5 * count, 5), layout="constrained")
    sizes, layers, spread = parts[:3]
    figure.suptitle(_label(title))
    _sizes(sizes, tensors)
    _layers(layers, tensors)
    _spread(spread, tensors)
    if chosen:
        _bits(parts[3], chosen)
    for axes in parts:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _part(name: str) -> str:
    """Returns the part of the model a tensor belongs to: its name without numbers and prefixes."""
    words = [w for w in name.split(".") if not w.isdecimal() and w not in ("model", "weight")]
    words = [w for w in words if w not in ("language_model", "layers", "blk", "experts")]
    return ".".join(words[-2:]) or name


def _label(text: str) -> str:
    """Returns text that is drawn as it is: a dollar would begin a formula."""
    return shown_text(text)[:80].replace("$", r"\$")


def _sizes(axes: Any, tensors: Sequence[TensorReport]) -> None:
    before: dict[str, int] = defaultdict(int)
    after: dict[str, int] = defaultdict(int)
    for t in tensors:
        before[_part(t.name)] += t.bytes_before
        after[_part(t.name)] += t.bytes_after
    parts = sorted(before, key=lambda part: -before[part])
    shown, rest = parts[:_MOST_PARTS], parts[_MOST_PARTS:]
    if rest:
        before["all else"] = sum(before[part] for part in rest)
        after["all else"] = sum(after[part] for part in rest)
        shown.append("all else")
    places = range(len(shown))
    axes.barh(places, [before[p] / 1e6 for p in shown], 0.8, color="0.85", label="before")
    axes.barh(places, [after[p] / 1e6 for p in shown], 0.5, color="tab:blue", label="after")
    axes.set_yticks(places, [_label(part) for part in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.set_title("Size by part of the model")
    axes.legend(frameon=False, loc="lower right")


def _layers(axes: Any, tensors: Sequence[TensorReport]) -> None:
    decibels = {t.name: t.sqnr_db for t in tensors if t.sqnr_db is not None}
    axes.set_title("Error by layer")
    axes.set_ylabel("SQNR, dB (higher is nearer)")
    what = "every tensor is exact" if decibels else "nothing was measured"
    _lines(axes, {name: db for name, db in decibels.items() if math.isfinite(db)}, what)


def _bits(axes: Any, tensors: Sequence[TensorReport]) -> None:
    axes.set_title("Bits by layer, chosen for the size")
    axes.set_ylabel("bits a weight")
    _lines(axes, {t.name: t.bits_per_weight for t in tensors}, "no layer has a number")


def _lines(axes: Any, values: Mapping[str, float], otherwise: str) -> None:
    """Draws the values of tensors by name, a line for each part of the model."""
    by_part: dict[str, dict[int, float]] = defaultdict(dict)
    for name, value in values.items():
        layer = re.search(r"\.(\d{1,9})\.", name)
        if layer:
            layers = by_part[_part(name)]
            # Of a layer's experts, stored one by one, the one that lost most.
            number = int(layer.group(1))
            layers[number] = min(value, layers.get(number, math.inf))
    axes.set_xlabel("layer")
    if not by_part:
        axes.text(0.5, 0.5, otherwise, ha="center", transform=axes.transAxes)
        return
    for i, part in enumerate(sorted(by_part)[:_MOST_PARTS]):
        points = sorted(by_part[part].items())
        # There are ten colors: the eleventh part begins again with dashes.
        style = {"marker": "o", "markersize": 3, "linestyle": "-" if i < 10 else "--"}
        axes.plot(*zip(*points, strict=True), **style, label=_label(part))
    axes.set_ylim(*_at_least_one_decibel(*axes.get_ylim()))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _spread(axes: Any, tensors: Sequence[TensorReport]) -> None:
    values = [t.sqnr_db for t in tensors if t.sqnr_db is not None]
    finite = [value for value in values if math.isfinite(value)]
    exact = len(values) - len(finite)
    axes.set_title("Spread of errors" + (f" ({exact} exact tensors left out)" if exact else ""))
    axes.set_xlabel("SQNR, dB")
    axes.set_ylabel("tensors")
    if finite:
        limits = _at_least_one_decibel(min(finite), max(finite))
        bins = min(30, max(5, len(finite) // 3))
        axes.hist(finite, bins=bins, range=limits, color="tab:blue")
        axes.yaxis.get_major_locator().set_params(integer=True)


def _at_least_one_decibel(low: float, high: float) -> tuple[float, float]:
    """Returns limits of an axis that do not make mountains of hundredths of a decibel."""
    middle, half = (low + high) / 2, max(0.5, (high - low) / 2)
    return middle - half, middle + half
