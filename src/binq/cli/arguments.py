"""What the options of the command line are, from the text that a user gave."""

import argparse
import re
from importlib.util import find_spec
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


def check_plot(path: Path) -> None:
    """Raises ValueError where a picture could not be drawn: better now than after hours."""
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'binq[plot]'")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot must end in .png, .svg or .pdf, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot: the folder {path.parent} does not exist")
