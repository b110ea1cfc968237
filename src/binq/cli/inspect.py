"""``binq inspect``: what a file or folder holds."""

import argparse
from typing import Any

from binq.cli import arguments
from binq.cli.console import OK, say
from binq.cli.options import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    inspect = add_command(
        commands,
        "inspect",
        "show what a file or folder holds, and how near it is to its source",
        "  binq inspect packed",
    )
    inspect.add_argument(
        "path", type=arguments.path, metavar="PATH", help="a file or folder of any kind"
    )
    inspect.add_argument("--json", action="store_true", help="a list as one JSON document")
    inspect.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Shows the tensors, and returns the exit code."""
    from binq.convert.inspect import inspect, inspect_json, inspect_text, saved_report

    entries = inspect(options.path)
    if options.json:
        say(inspect_json(entries))
    else:
        say(inspect_text(entries, saved_report(options.path)))
    return OK
