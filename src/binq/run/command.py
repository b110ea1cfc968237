"""``binq generate``: text from a model, as it is made, and how fast it was."""

import argparse
import sys
import time
from collections.abc import Iterator

from binq.run.decoder import Decoder
from binq.run.sampling import generate
from binq.run.text import Text, stop_tokens


def run(options: argparse.Namespace) -> None:
    """Writes text to standard output as it is made, then tokens a second to standard error."""
    decoder = Decoder(options.model, options.activations)
    text = None if options.ids else Text(decoder.model)
    prompt = options.ids or (text.encode(options.prompt, chat=not options.raw) if text else [])
    vocabulary = decoder.embeddings.shape[0]
    if not prompt or max(prompt) >= vocabulary:
        raise ValueError(f"the prompt must be 1 or more tokens below {vocabulary}, got {prompt}")
    clock = [time.perf_counter()]
    tokens = _timed(
        generate(
            decoder,
            prompt,
            options.new,
            stop=stop_tokens(decoder.model),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
        ),
        clock,
    )
    pieces = text.stream(tokens) if text else (f"{token} " for token in tokens)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)
    first = clock[1] - clock[0]
    said = f"{len(prompt)} tokens of prompt: {len(prompt) / first:.1f} a second"
    if len(clock) > 2:
        rest = len(clock) - 2
        said += f"; {rest + 1} made: {rest / (clock[-1] - clock[1]):.1f} a second"
    print(said, file=sys.stderr)


def _timed(tokens: Iterator[int], clock: list[float]) -> Iterator[int]:
    """Yields tokens and notes when each was there."""
    for token in tokens:
        clock.append(time.perf_counter())
        yield token
