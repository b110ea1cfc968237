"""Feeds mutated headers to the file reader: only binq's own errors may come out.

    python tests/files/fuzz.py --inputs 10000000 [--seed 0]

test_fuzz.py runs a short one with the suite.
"""

import argparse
import json
import random
import time

from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata
from binq.files.header import header_length, parse_header

TENSORS = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b.packed": {"dtype": "U8", "shape": [1, 4, 32], "data_offsets": [12, 140]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [140, 148]},
}
BINQ = (
    '{"version":1,"tensors":{"b":{"format":"binary","shape":[3,32],"group_size":32,'
    '"symmetric":true}},"sha256":{"a":"00"}}'
)
SEEDS = [(json.dumps(TENSORS).encode(), True), (BINQ.encode(), False)]
WORDS = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"-", b"0", b"1e9", b"null", b"true", b"NaN"]
WORDS += [b"\\ud800", b"\\u0000", b"9" * 30, b"[" * 2000, b'"dtype"', b"18446744073709551616"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns data with one to four bytes or words changed, cut, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.randint(1, 12)]
        elif kind == 2:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        elif kind == 3:
            out[at:at] = rng.choice(WORDS)
        elif at < len(out):
            out[at] = rng.randrange(256)
    return bytes(out)


def fuzz(inputs: int, seed: int) -> int:
    """Returns how many of ``inputs`` mutants were accepted; any other error than ours escapes."""
    rng = random.Random(seed)
    accepted = 0
    for _ in range(inputs):
        data, is_header = rng.choice(SEEDS)
        mutant = mutate(data, rng)
        try:
            if is_header:
                header_length(mutant[:8], len(mutant), "fuzz")
        except FormatError:
            pass
        try:
            if is_header:
                parse_header(mutant, 148, "fuzz")
            else:
                metadata.parse(mutant.decode("utf-8", "replace"), "fuzz")
            accepted += 1
        except (FormatError, UnsupportedFormatError):
            continue
    return accepted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    accepted = fuzz(options.inputs, options.seed)
    seconds = time.perf_counter() - start
    print(f"{options.inputs} inputs in {seconds:.0f} s, {accepted} accepted, no other error")


if __name__ == "__main__":
    main()
