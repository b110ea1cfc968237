"""What formats and methods cost a real model: ``python benchmarks/quality/run.py``.

SmolLM2-135M, all 210 linear layers quantized, embedding and head as they are. Perplexity and KL
divergence (nats a token, from the float model's to the quantized one's predictions) of 2048 tokens,
calibrated on 5120 others, beside the rivals that are installed. One row at a time: ``--only
"int4 g64 gptq"``. ``--save`` keeps the rows in smollm2.json, with those that are there, and draws
docs/images/quality.png.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections import ChainMap, Counter
from pathlib import Path
from typing import Any

import numpy as np
import rivals
from pareto import draw
from smollm2 import fetch, sequences
from text import halves

import binq

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent.parent / "examples"), str(HERE.parent)]

import calibrate  # noqa: E402

SAVED = HERE / "smollm2.json"
SENSITIVITIES = HERE / "sensitivities.json"
PICTURE = HERE.parent.parent / "docs" / "images" / "quality.png"
ROWS = (
    "int4 g64 mse",
    "int4 g64 importance",
    "int4 g64 gptq",
    "int4 g64 sequential",
    "int4 g128 gptq",
    "iq4nl g64 mse",
    "iq4nl g64 importance",
    "iq4nl g64 gptq",
    "mxfp4 g32 mse",
    "int3 g64 mse",
    "int3 g64 importance",
    "int3 g64 gptq",
    "int3 g64 sequential",
    "int3 g32 mse",
    "int3 g32 gptq",
    *(
        f"target {bits} {how}"
        for bits in (4.4, 3.7, 3.3, 2.6)
        for how in ("measured", "gptq", "mse")
    ),
    "int2 g32 mse",
    "int2 g32 gptq",
    "int2 g64 mse",
    "int2 g64 gptq",
    "int2 g64 sequential",
    "ternary g64 mse",
    "ternary g64 gptq",
    "ternary g64 sequential",
)


class Judge:
    """Perplexity, and divergence from the float model, of sequences of tokens."""

    def __init__(self, model: calibrate.Decoder, ids: np.ndarray) -> None:
        self.model = model
        self.batches = [ids[i : i + 4] for i in range(0, len(ids), 4)]
        self.head = np.asarray(model.tensors["model.embed_tokens.weight"], np.float32)
        self.exact = calibrate.run(model, self.batches, model.tensors)

    def __call__(self, weights: Any) -> tuple[float, float]:
        loss = divergence = 0.0
        states = calibrate.run(self.model, self.batches, weights)
        for ids, h, exact in zip(self.batches, states, self.exact, strict=True):
            for tokens, ours, theirs in zip(ids, h, exact, strict=True):
                p, q = self.predictions(theirs), self.predictions(ours)
                loss -= float(q[np.arange(len(tokens) - 1), tokens[1:]].sum())
                divergence += float((np.exp(p) * (p - q)).sum())
        sizes = np.array([ids.shape for ids in self.batches])
        return float(np.exp(loss / (sizes[:, 0] * (sizes[:, 1] - 1)).sum())), divergence / float(
            sizes.prod(axis=1).sum()
        )

    def predictions(self, h: np.ndarray) -> np.ndarray:
        z = h @ self.head.T
        z -= z.max(axis=-1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
        return z


def quantize(
    source: Path, model: calibrate.Decoder, batches: list[np.ndarray], cal: Any, row: str
) -> Any:
    """Returns the quantized linear layers of a row of the table by name."""
    format, group, method = row.split()
    if format == "target":
        return budgeted(source, model, batches, cal, float(group), method)
    size = int(group[1:])
    if method == "sequential":
        made: dict[str, Any] = {}
        for layer in calibrate.sequential(model, batches, format, size):
            made |= layer
        return made
    options = {
        "mse": lambda name: {},
        "importance": lambda name: {"importance": cal[name].mean_square},
        "gptq": lambda name: {"method": "gptq", "stats": cal[name]},
    }[method]
    return {
        name: binq.quantize(model.tensors[name], format, group_size=size, **options(name))
        for name in cal
    }


def budgeted(
    source: Path,
    model: calibrate.Decoder,
    batches: list[np.ndarray],
    cal: binq.Calibrator,
    bits: float,
    method: str,
) -> dict[str, binq.QuantizedArray]:
    """Returns the linear layers in the formats and groups that ``target_bpw`` chooses.

    method: "mse", "gptq", or "measured": gptq with the sensitivities of the layers
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options: dict[str, Any] = {}
        if method != "mse":
            options["calibration"] = folder / "calibration.safetensors"
            cal.save(options["calibration"])
        if method == "measured":
            known = binq.Calibrator.load(options["calibration"])
            tell(model, batches, known)
            known.save(options["calibration"])
        # What GGUF stores in four bits would be taken over exactly.
        binq.dequantize_checkpoint(source, folder / "floats", dtype="float32")
        binq.quantize_checkpoint(folder / "floats", folder / "packed", target_bpw=bits, **options)
        with binq.load(folder / "packed") as tensors:
            made = {name: copy.deepcopy(tensors[name]) for name in cal}
    kinds = Counter(f"{q.format} g{q.group_size}" for q in made.values())
    print(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()), file=sys.stderr)
    return made


def tell(model: calibrate.Decoder, batches: list[np.ndarray], cal: binq.Calibrator) -> None:
    """Tells the calibration what it costs to quantize each layer alone: sensitivities.json.

    Where the file is not there, it is measured: on 384 tokens, in ten minutes and more.
    """
    if SENSITIVITIES.exists():
        for name, value in json.loads(SENSITIVITIES.read_text()).items():
            cal.set_sensitivity(name, value)
        return
    calibrate.measure(model, [batches[0][1:3, :192]], cal)
    SENSITIVITIES.write_text(json.dumps(dict(cal.sensitivities), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "results")
    parser.add_argument("--save", action="store_true", help="keep the rows, draw the picture")
    parser.add_argument("--only", action="append", help="a row, such as 'int4 g64 gptq'")
    options = parser.parse_args()
    path = fetch(options.folder)
    ids, judged = sequences(path, halves(), (20, 8))
    tensors = binq.load(path)
    model = calibrate.Decoder.of(tensors)
    # Read once: it is the float model that everything is compared with.
    model.tensors = {name: np.asarray(tensors[name], np.float32) for name in tensors}
    judge = Judge(model, judged)
    batches = [ids[i : i + 4] for i in range(0, len(ids), 4)]
    cal = calibrate.collect(model, batches)
    print("| weights | bits | MB | perplexity | KL | seconds | |")
    print("|---|---|---|---|---|---|---|")
    size = sum(model.tensors[name].nbytes for name in cal)
    _say(options, "float32", 32.0, size, judge(model.tensors), 0.0, "")
    count = sum(model.tensors[name].size for name in cal)
    for row in options.only or (*ROWS, *rivals.ROWS):
        start = time.perf_counter()
        if row in rivals.ROWS:
            try:
                floats, size, note = rivals.quantize(row, path, model, cal)
            except rivals.RefusedError as error:
                print(f"| {row} | – | – | – | – | – | {error} |", flush=True)
                continue
        else:
            made, note = quantize(path, model, batches, cal, row), ""
            size = sum(q.nbytes for q in made.values())
            floats = {name: q.dequantize() for name, q in made.items()}
        seconds = time.perf_counter() - start
        loss = judge(ChainMap(floats, model.tensors))
        _say(options, row, 8 * size / count, size, loss, seconds, note)


def _say(
    options: argparse.Namespace,
    row: str,
    bits: float,
    size: int,
    loss: tuple[float, float],
    seconds: float,
    note: str,
) -> None:
    perplexity, divergence = loss
    print(
        f"| {row} | {bits:.2f} | {size / 1e6:.1f} | {perplexity:.2f} | {divergence:.4f} "
        f"| {seconds:.0f} | {note} |",
        flush=True,
    )
    if options.save:
        kept = json.loads(SAVED.read_text()) if SAVED.exists() else {}
        kept[row] = {
            "bits": round(bits, 4),
            "bytes": size,
            "perplexity": round(perplexity, 3),
            "kl": round(divergence, 5),
            "note": note,
        }
        SAVED.write_text(json.dumps(kept, indent=1) + "\n")
        draw(kept, PICTURE)


if __name__ == "__main__":
    main()
