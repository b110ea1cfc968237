"""What the options of the command line are, from the text that a user gave."""

import argparse
import re
from pathlib import Path


def path(text: str) -> Path:
    """Returns a path that is not empty."""
    # Path("") is the working folder: an unset variable of a script would name that.
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")
    return Path(text)


def group_size(text: str) -> int | None:
    """Returns a number, None for ``row``."""
    if text == "row":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or 'row', got {text!r}")
    return int(text)


def part(text: str) -> tuple[int, int]:
    """Returns I and N of ``I/N``."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n) < 2**31):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, got {text!r}")
    return int(i), int(n)


def shard_size(text: str) -> int:
    """Returns the bytes of a number of GB."""
    try:
        nbytes = float(text) * 1e9
    except ValueError:
        nbytes = 0.0
    if not 1 <= nbytes <= 2**60:
        raise argparse.ArgumentTypeError(f"must be a number of GB above 0, got {text!r}")
    return int(nbytes)


def size(text: str) -> int:
    """Returns the bytes of a size such as ``4GB``, ``500MB`` or ``3GiB``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a size such as 4GB or 500MB, got {text!r}")
    step = 1024 if found[3] else 1000
    return int(float(found[1]) * step ** " KMGT".index(found[2].upper() or " "))


def features(text: str) -> int:
    """Returns a number of rows and columns."""
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 16:
        raise argparse.ArgumentTypeError(f"must be from 1 to {1 << 16}, got {text!r}")
    return int(text)


def number_of_bytes(text: str) -> int:
    """Returns a number of bytes."""
    if not text.isdecimal() or not 1 <= int(text) <= 2**60:
        raise argparse.ArgumentTypeError(f"must be a number of bytes above 0, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Returns a number of tokens."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text!r}")
    return int(text)


def temperature(text: str) -> float:
    """Returns a temperature."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text!r}")
    return number


def share(text: str) -> float:
    """Returns a share of a whole."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text!r}")
    return number


def ids(text: str) -> list[int]:
    """Returns the integers of ``1,2,3``."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise argparse.ArgumentTypeError(f"must be integers and commas, got {text!r}")
    return [int(number) for number in text.split(",")]


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Adds what ``binq generate`` takes."""
    parser.add_argument("model", type=path, metavar="MODEL", help="a folder or GGUF file to run")
    parser.add_argument("prompt", nargs="?", default="", metavar="TEXT", help="what to answer")
    parser.add_argument(
        "--ids", type=ids, metavar="I,I", help="token ids instead of TEXT; ids are printed"
    )
    parser.add_argument(
        "--new", type=count, default=256, metavar="N", help="tokens to make at most (default: 256)"
    )
    parser.add_argument(
        "--temperature",
        type=temperature,
        default=0.0,
        metavar="T",
        help="0 takes the best token always (default), 1 follows the model's probabilities",
    )
    parser.add_argument(
        "--top-p",
        type=share,
        default=0.9,
        metavar="P",
        help="the likeliest tokens that make up this share are drawn from (default: 0.9)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of what is drawn")
    parser.add_argument(
        "--activations",
        default="int16",
        choices=("float32", "int16", "int8"),
        help="how exactly x enters the products (default: int16)",
    )
    parser.add_argument("--raw", action="store_true", help="without the model's chat template")
