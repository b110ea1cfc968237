"""``binq selftest``: whether this installation gives the right numbers."""

import argparse
from typing import Any

from binq.cli.console import FAILED, OK, say
from binq.cli.options import add_command


def add(commands: Any) -> None:
    """Adds the command."""
    selftest = add_command(commands, "selftest", "check this installation", "  binq selftest")
    selftest.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Checks, and returns the exit code."""
    from binq.selftest import selftest

    return OK if selftest(say) else FAILED
