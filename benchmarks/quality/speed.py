"""Prints tokens a second of SmolLM2-135M in binq's formats and llama.cpp's files.

    python benchmarks/quality/speed.py [--folder FOLDER]

One sequence, token by token after a prompt of 16, two threads unless --threads says otherwise; binq
by binq.run, its embedding and head in int8, as they are in llama.cpp's files (Q8_0). The method
that made the weights changes nothing. All models are in memory at once and take turns; the first
round is left out. What they say is of no matter: llama.cpp gets an importance of ones.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rivals
from smollm2 import fetch

import binq
from binq.run import Decoder

FORMS = ("int4 g64", "iq4nl g64", "mxfp4 g32", "int3 g32", "int3 g64", "int2 g32", "int2 g64")
FORMS = (*FORMS, "ternary g64")
PROMPT = list(range(1000, 1016))

# Adds a number of tokens to its sequence; returns the seconds of that.
Contestant = Callable[[int], float]


def ours(source: Path, folder: Path, form: str) -> Contestant:
    floats, target = folder / "floats", folder / form.replace(" ", "-")
    if not floats.exists():
        # What GGUF stores in four bits would be taken over exactly.
        binq.dequantize_checkpoint(source, floats, dtype="float32")
    if not target.exists():
        format, group = form.split()
        binq.quantize_checkpoint(
            floats, target, format=format, group_size=int(group[1:]), embeddings="int8"
        )

    decoder = Decoder(target)
    logits = decoder(PROMPT)

    def run(count: int) -> float:
        nonlocal logits
        start = time.perf_counter()
        for _ in range(count):
            logits = decoder([int(logits.argmax())])
        return time.perf_counter() - start

    return run


def theirs(source: Path, folder: Path, mix: str, threads: int) -> Contestant:
    import llama_cpp

    path = folder / f"{mix}.gguf"
    if not path.exists():
        rivals.llama_file(source, path, rivals.MIXES[mix], _ones(source))
    model = llama_cpp.Llama(
        str(path), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    model.eval(PROMPT)

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            logits = np.ctypeslib.as_array(
                llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),)
            )
            model.eval([int(logits.argmax())])
        return time.perf_counter() - start

    return run


def _ones(source: Path) -> dict[str, np.ndarray]:
    """Returns an importance that is the same for all inputs of each linear layer."""
    described = binq.describe(source)
    return {
        rivals.gguf_name(name): np.ones(record.shape[1], np.float32)
        for name, record in described.items()
        if "_proj." in name
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "results")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=24, help="tokens a round")
    parser.add_argument("--prepare", action="store_true", help="write the models, time nothing")
    options = parser.parse_args()
    binq.set_num_threads(options.threads)
    source, folder = fetch(options.folder), options.folder / "speed"
    folder.mkdir(exist_ok=True)
    contestants = {f"binq {form}": ours(source, folder, form) for form in FORMS}
    for row in rivals.ROWS:
        if row.startswith("llama.cpp"):
            try:
                mix = row.split()[1]
                contestants[row] = theirs(source, folder, mix, options.threads)
            except rivals.RefusedError as error:
                print(f"{row}: {error}")
    if options.prepare:
        return
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.rounds + 1):
        for name, run in contestants.items():
            seconds[name].append(run(options.new))
    print(f"{binq.cpu_info()}, {options.threads} threads\n")
    print("| weights | tokens a second, median | best |")
    print("|---|---|---|")
    for name, (_, *rounds) in seconds.items():
        median, best = options.new / np.median(rounds), options.new / min(rounds)
        print(f"| {name} | {median:.0f} | {best:.0f} |")


if __name__ == "__main__":
    main()
