"""``binq bench``: the speed of this machine."""

import argparse
from typing import Any

from binq.cli import arguments
from binq.cli.console import OK, say
from binq.cli.options import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    bench = add_command(
        commands,
        "bench",
        "speed of this machine, beside numpy's float32",
        "  binq bench --features 2048",
    )
    bench.add_argument(
        "--features",
        type=arguments.features,
        default=4096,
        metavar="N",
        help="rows and columns of the matrix (default: 4096)",
    )
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measures, and returns the exit code."""
    from binq.bench import bench

    bench(options.features, say)
    return OK
