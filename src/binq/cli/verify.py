"""``binq verify``: reads everything again and compares."""

import argparse
from typing import Any

from binq.cli import arguments
from binq.cli.console import FAILED, OK, say
from binq.cli.options import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    verify = add_command(
        commands,
        "verify",
        "read everything again and compare",
        "  binq verify packed --against model",
    )
    verify.add_argument(
        "path", type=arguments.path, metavar="PATH", help="a file or folder of binq"
    )
    verify.add_argument(
        "--against", type=arguments.path, metavar="SRC", help="compare with what it was made from"
    )
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Tells what is wrong, and returns the exit code."""
    from binq.convert.tables import shown
    from binq.convert.verify import verify

    problems = 0
    for problem in verify(options.path, options.against):
        say(shown(problem))
        problems += 1
    say(f"{shown(str(options.path))}: {'ok' if not problems else f'{problems} problems'}")
    return FAILED if problems else OK
