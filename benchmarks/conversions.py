"""Prints how many weights a second whole conversions make, by what their source stores.

    python benchmarks/conversions.py [--folder /dev/shm] [--matrices 12] [--rounds 5]

Each source has the same matrices of 4096 x 4096; a round converts all of them in turn, from the
page cache to the folder, fsync included, with all threads. The columns are the best and the median
of the rounds, and their ratio to plain bfloat16 of the same round; the last, the seconds of
processor time that a billion weights take, which a busy machine changes less. Sources stay in the
folder for the next run.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ml_dtypes
import numpy as np
from cases import SMOKE

import binq

SIZE = 256 if SMOKE else 4096
GROUP, BLOCK = 128, 128
Tensors = dict[str, Any]


def floats(number: int) -> Any:
    """Returns Gaussian weights in bfloat16: the rows of one block, over and over."""
    rng = np.random.default_rng(number)
    rows = rng.standard_normal((SIZE // 8, SIZE), np.float32) * np.float32(0.02)
    return np.tile(rows.astype(ml_dtypes.bfloat16), (8, 1))


def name(number: int) -> str:
    return f"model.layers.{number}.mlp.down_proj"


def plain(number: int) -> Tensors:
    return {f"{name(number)}.weight": floats(number)}


def float8(number: int) -> Tensors:
    values = (floats(number).astype(np.float32) * 4000).clip(-448, 448)
    grid = (SIZE // BLOCK, SIZE // BLOCK)
    scales = np.random.default_rng(number).uniform(1e-4, 2e-4, grid).astype(np.float32)
    key = f"{name(number)}.weight"
    return {key: values.astype(ml_dtypes.float8_e4m3fn), f"{key}_scale_inv": scales}


def gptq(number: int) -> Tensors:
    rng = np.random.default_rng(number)
    groups = SIZE // GROUP
    words = rng.integers(0, 1 << 32, (SIZE // 8, SIZE), np.uint32)
    zeros = rng.integers(0, 1 << 32, (groups, SIZE // 8), np.uint32)
    scales = rng.uniform(1e-3, 2e-3, (groups, SIZE)).astype(np.float16)
    parts = {"qweight": words.view(np.int32), "qzeros": zeros.view(np.int32), "scales": scales}
    return {f"{name(number)}.{part}": array for part, array in parts.items()}


def experts(number: int) -> Tensors:
    return {f"model.layers.{number}.mlp.experts.down_proj": floats(number)[None]}


def mxfp4(number: int) -> Tensors:
    rng = np.random.default_rng(number)
    shape = (1, SIZE, SIZE // 32)
    key = f"model.layers.{number}.mlp.experts.down_proj"
    return {
        f"{key}_blocks": rng.integers(0, 256, (*shape, 16), np.uint8),
        f"{key}_scales": rng.integers(118, 123, shape, np.uint8),
    }


QWEN = {"model_type": "qwen3"}
GPT_OSS = {"model_type": "gpt_oss"}
Source = tuple[Callable[[int], Tensors], dict[str, Any], dict[str, Any]]
# What makes the tensors, the model, the settings of its quantization.
SOURCES: dict[str, Source] = {
    "bfloat16": (plain, QWEN, {}),
    "float8, blocks of 128": (
        float8,
        QWEN,
        {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]},
    ),
    "GPTQ int4": (
        gptq,
        QWEN,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False},
    ),
    "input-major experts": (experts, GPT_OSS, {}),
    "MXFP4": (mxfp4, GPT_OSS, {"quant_method": "mxfp4"}),
}
# How they are converted; what is int4 and MXFP4 already is taken over by the second and third.
TARGETS = {
    "ternary absmean": {"format": "ternary", "method": "absmean"},
    "int4 absmax": {"format": "int4", "method": "absmax"},
}


def make(folder: Path, kind: str, matrices: int) -> None:
    """Writes a source of one file for each matrix."""
    make_tensors, model, quantization = SOURCES[kind]
    folder.mkdir(exist_ok=True)
    places = {}
    for number in range(matrices):
        tensors = make_tensors(number)
        file = f"model-{number:05d}.safetensors"
        binq.save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    config = model | ({"quantization_config": quantization} if quantization else {})
    (folder / "config.json").write_text(json.dumps(config))


def seconds(source: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Returns how long one conversion takes, and how long it keeps a processor busy."""
    target = source.with_name(f"{source.name} converted")
    start, busy = time.perf_counter(), time.process_time()
    binq.quantize_checkpoint(source, target, overwrite=True, **settings)
    taken = time.perf_counter() - start, time.process_time() - busy
    shutil.rmtree(target)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--matrices", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="some of the sources, besides bfloat16")
    options = parser.parse_args()
    kinds = [k for k in SOURCES if options.only is None or k in ("bfloat16", *options.only)]
    weights = options.matrices * SIZE * SIZE
    info = binq.cpu_info()
    print(f"{info['isa']} kernels, {binq.get_num_threads()} threads, {options.folder}")
    print("| source | target | G weights/s, best | median | of bfloat16, best | median | busy s |")
    print("|---|---|---|---|---|---|---|")
    place = options.folder / f"binq conversions {options.matrices} {SIZE}"
    place.mkdir(exist_ok=True)
    for kind in kinds:
        if not Path(place, kind, "config.json").exists():
            make(Path(place, kind), kind, options.matrices)
    for target, settings in TARGETS.items():
        taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for number in range(options.rounds + 1):
            for kind in kinds:
                found = seconds(Path(place, kind), settings)
                if number:  # the first round warms the page cache
                    taken[kind].append(found)
        base = [one for one, _ in taken["bfloat16"]]
        for kind, found in taken.items():
            times, busy = zip(*found, strict=True)
            ratios = [b / t for b, t in zip(base, times, strict=True)]
            print(
                f"| {kind} | {target} | {weights / min(times) / 1e9:.2f} "
                f"| {weights / median(times) / 1e9:.2f} | {min(base) / min(times):.2f} "
                f"| {median(ratios):.2f} | {min(busy) / weights * 1e9:.2f} |"
            )


if __name__ == "__main__":
    main()
