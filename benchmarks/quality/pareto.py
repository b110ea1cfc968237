"""Draws what a bit buys: KL divergence over bits a weight, of binq's rows and the rivals'."""

from pathlib import Path
from typing import Any

METHODS = {"mse": "tab:blue", "importance": "tab:cyan", "gptq": "tab:orange"}
METHODS |= {"sequential": "tab:red", "measured": "tab:purple"}
RIVALS = {"llama.cpp": "s", "HQQ": "^", "bitsandbytes": "D"}


def draw(rows: dict[str, Any], picture: Path) -> None:
    """Writes the picture of rows by name, each with "bits" and "kl"."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    labelled = set()
    for name, row in rows.items():
        if not row["kl"] > 0:
            continue
        words = name.split()
        rival = words[0] in RIVALS
        group = words[0] if rival else f"binq, {words[-1]}"
        axes.scatter(
            row["bits"],
            row["kl"],
            40 if rival else 60,
            color="0.55" if rival else METHODS[words[-1]],
            marker=RIVALS[words[0]] if rival else "o",
            label=None if group in labelled else group,
        )
        labelled.add(group)
        text = " ".join(words[1:]) if rival else " ".join(words[:-1])
        place = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 7}
        axes.annotate(text, (row["bits"], row["kl"]), color="0.4" if rival else "0.1", **place)
    axes.set_yscale("log")
    axes.set_xlabel("bits a weight, scales and zero points included")
    axes.set_ylabel("KL divergence from the float model, nats a token")
    axes.set_title("SmolLM2-135M: what a bit buys (lower is better)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
