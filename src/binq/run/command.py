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
    if (options.prompt is None) == (options.ids is None):
        raise ValueError("give TEXT to answer, or --ids, not both")
    decoder = Decoder(options.model, options.activations)
    text = None if options.ids else Text(decoder.model)
    prompt = options.ids or (text.encode(options.prompt, chat=not options.raw) if text else [])
    if not prompt:
        raise ValueError("TEXT must have 1 or more tokens, got none")
    room = decoder.room
    if len(prompt) >= room:
        raise ValueError(
            f"the prompt must leave room for a token: it has {len(prompt)}, the model was made for "
            f"{room} (max_position_embeddings of its config.json)"
        )
    clock = [time.perf_counter()]
    tokens = _timed(
        generate(
            decoder,
            prompt,
            min(options.new, room - len(prompt)),
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
    if len(prompt) + len(clock) - 1 == room:
        said += f"; stopped at {room} tokens, which the model was made for"
    print(said, file=sys.stderr)


def _timed(tokens: Iterator[int], clock: list[float]) -> Iterator[int]:
    """Yields tokens and notes when each was there."""
    for token in tokens:
        clock.append(time.perf_counter())
        yield token
