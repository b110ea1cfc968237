"""What the parsers of several commands share."""

import argparse
from typing import Any

from binq.cli import arguments


def add_command(commands: Any, name: str, what: str, examples: str) -> argparse.ArgumentParser:
    """Returns the parser of a command, whose help ends with examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_paths(command: argparse.ArgumentParser) -> None:
    """Adds SRC and DST."""
    command.add_argument("src", type=arguments.path, metavar="SRC", help="folder or file to read")
    command.add_argument("dst", type=arguments.path, metavar="DST", help="folder to make")


def add_shared(command: argparse.ArgumentParser) -> None:
    """Adds the options that all commands with a DST have."""
    command.add_argument(
        "--family",
        metavar="NAME",
        help="read the model as one of this family or model_type; 'generic' for any",
    )
    size = command.add_mutually_exclusive_group()
    size.add_argument(
        "--max-shard-size",
        type=arguments.shard_size,
        default="5",
        metavar="GB",
        help="begin a new file at this many GB (default: 5)",
    )
    size.add_argument(
        "--max-shard-bytes",
        type=arguments.number_of_bytes,
        dest="max_shard_size",
        metavar="N",
        help="the same in bytes",
    )
    command.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    command.add_argument(
        "--json", action="store_true", help="print the report as one JSON document"
    )


def check_family(name: str | None) -> None:
    """Raises ValueError for a ``--family`` that nobody knows."""
    from binq.models.table import by_name

    if name is not None:
        by_name(name)
