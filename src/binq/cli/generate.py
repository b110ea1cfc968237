"""``binq generate``: an answer of a model."""

import argparse
import re
from typing import Any

from binq.cli import arguments
from binq.cli.console import OK
from binq.cli.options import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands, "generate", "answer with a model", "  binq generate packed Hello"
    )
    parser.add_argument(
        "model", type=arguments.path, metavar="MODEL", help="a folder or GGUF file to run"
    )
    parser.add_argument("prompt", nargs="?", metavar="TEXT", help="what to answer")
    parser.add_argument(
        "--ids", type=_ids, metavar="I,I", help="token ids instead of TEXT; ids are printed"
    )
    parser.add_argument(
        "--new", type=_count, default=256, metavar="N", help="tokens to make at most (default: 256)"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="0 takes the best token always (default), 1 follows the model's probabilities",
    )
    parser.add_argument(
        "--top-p",
        type=_share,
        default=0.9,
        metavar="P",
        help="the likeliest tokens that make up this share are drawn from (default: 0.9)",
    )
    parser.add_argument("--seed", type=_seed, metavar="N", help="of what is drawn")
    parser.add_argument(
        "--activations",
        default="int16",
        choices=("float32", "int16", "int8"),
        help="how exactly x enters the products (default: int16)",
    )
    parser.add_argument("--raw", action="store_true", help="without the model's chat template")
    parser.set_defaults(run=run)


def take(options: argparse.Namespace, left: list[str]) -> bool:
    """Returns whether what argparse has left over is TEXT, which is then taken.

    It looks for a TEXT that may be left out right after MODEL alone, not after options.
    """
    if len(left) != 1 or left[0].startswith("-") or options.prompt is not None:
        return False
    (options.prompt,) = left
    return True


def run(options: argparse.Namespace) -> int:
    """Generates, and returns the exit code."""
    from binq.run.command import run as write_text

    write_text(options)
    return OK


def _count(text: str) -> int:
    """Returns a number of tokens."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    """Returns the seed of a generator of random numbers."""
    if not text.isdecimal() or len(text) > 19:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return int(text)


def _temperature(text: str) -> float:
    """Returns a temperature."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return number


def _share(text: str) -> float:
    """Returns a share of a whole."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text!r}")
    return number


def _ids(text: str) -> list[int]:
    """Returns the integers of ``1,2,3``."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise argparse.ArgumentTypeError(f"must be integers and commas, got {text!r}")
    return [int(number) for number in text.split(",")]
