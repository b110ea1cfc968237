"""Which token follows: the best, or one of the likeliest by chance."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import nn

Floats = NDArray[np.float32]


def choose(logits: Floats, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Returns the best token, or one of the likeliest that make up top_p, by chance."""
    if temperature == 0:
        return int(logits.argmax())
    likely = np.argsort(-logits)
    with np.errstate(over="ignore"):  # a temperature next to 0 leaves the best alone
        scaled = (logits[likely] - logits[likely[0]]) / np.float64(temperature)
        p = nn.softmax(scaled.astype(np.float32)).astype(np.float64)
    p = p[: int(np.searchsorted(p.cumsum(), top_p)) + 1]
    return int(likely[rng.choice(len(p), p=p / p.sum())])


def generate(
    decoder: Callable[[list[int]], Floats],
    prompt: list[int],
    count: int,
    *,
    stop: Collection[Any] = (),
    temperature: float = 0.0,
    top_p: float = 0.9,
    seed: int | None = None,
) -> Iterator[int]:
    """Yields tokens as they are made, up to ``count`` or to one of ``stop``, which comes last.

    - decoder: adds tokens to its sequence and returns the logits of what follows
    - temperature: 0 takes the best token always; 1 follows the model's probabilities
    - top_p: the share of probability that the likeliest tokens must make up; others are left out
    - seed: of the chance; None: another each time

    Raises ValueError for a temperature below 0, and a top_p that is not above 0 and at most 1.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be 0 or more, got {temperature!r}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p!r}")
    return _generate(decoder, prompt, count, stop, temperature, top_p, seed)


def _generate(
    decoder: Callable[[list[int]], Floats],
    prompt: list[int],
    count: int,
    stop: Collection[Any],
    temperature: float,
    top_p: float,
    seed: int | None,
) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    tokens = prompt
    for _ in range(count):
        token = choose(decoder(tokens), temperature, top_p, rng)
        yield token
        if token in stop:
            return
        tokens = [token]
