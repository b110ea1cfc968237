"""Feeds mutants of files and folders to the readers: only binq's own errors may come out.

    PYTHONPATH=tests python tests/fuzz/campaign.py --inputs 1000000 [--kinds headers,gguf]

test_fuzz.py runs a short one with the suite. What else came
out is printed with the number of its input, which makes it again.
"""

import argparse
import contextlib
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType

from fuzz.kinds import KINDS, Folders

import binq

SECONDS = 20  # no mutant of a few kilobytes may take longer


class TooLongError(Exception):
    """A mutant took longer than any may."""


def fuzz(kind: str, inputs: int, seed: int, folder: Path) -> tuple[int, list[tuple[str, int]]]:
    """Returns how many mutants were accepted, and what came out of others with their number."""
    fuzzed = KINDS[kind](folder)
    accepted, faults = 0, []
    for number in range(inputs):
        rng = random.Random(f"{kind} {seed} {number}")
        try:
            with _time_limit(), warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.simplefilter("ignore", binq.UnknownModelWarning)
                warnings.simplefilter("ignore", binq.ScaleRangeWarning)
                accepted += fuzzed.try_one(rng)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = ", ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[-3:])
            faults.append((f"{type(error).__name__} at {where}: {str(error)[:200]}", number))
    return accepted, faults


@contextlib.contextmanager
def _time_limit():
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="DIR",
        help="more folders: pytest --basetemp DIR makes them",
    )
    options = parser.parse_args()
    Folders.examples = options.examples
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _too_long)
    for kind in options.kinds.split(","):
        folder = Path(tempfile.mkdtemp(prefix="binq-fuzz-"))
        start = time.perf_counter()
        accepted, faults = fuzz(kind, options.inputs, options.seed, folder)
        seconds = time.perf_counter() - start
        print(
            f"{kind}: {options.inputs} inputs, seed {options.seed}, {seconds:.0f} s, "
            f"{accepted} accepted, {len(faults)} faults",
            flush=True,
        )
        seen: dict[str, int] = {}
        for fault, number in faults:
            seen.setdefault(fault.partition(": ")[0], number)
        for fault, number in faults:
            if seen.get(fault.partition(": ")[0]) == number:
                print(f"  input {number}: {fault}", flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
