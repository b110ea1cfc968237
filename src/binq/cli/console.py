"""What commands say: results to standard output, complaints to standard error, exit codes."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from binq.convert.report import Report

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def say(text: str) -> None:
    """Writes a line of results; where its reader went away, as ``head`` does, the work goes on."""
    from binq.convert.tables import shown

    try:
        print("\n".join(map(shown, text.split("\n"))), flush=True)
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def complain(text: str) -> None:
    """Writes a line to standard error."""
    from binq.convert.tables import shown

    print(f"binq: {shown(text)}", file=sys.stderr)


def usage(message: str) -> NoReturn:
    """Ends the command: it was called in a wrong way."""
    complain(message)
    raise SystemExit(USAGE)


@contextmanager
def checking_usage() -> Iterator[None]:
    """Makes a ValueError about options one of wrong usage, before any work begins."""
    try:
        yield
    except ValueError as error:
        usage(str(error))


@contextmanager
def unknown_models_in_report() -> Iterator[None]:
    """Leaves out the warning of an unknown model, which the report has as well."""
    from binq.errors import UnknownModelWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownModelWarning)
        yield


def tell(report: "Report", options: argparse.Namespace) -> None:
    """Writes a report as ``--json`` asks, and its warnings."""
    say(report.to_json() if options.json else str(report))
    for warning in report.warnings:
        complain(warning)
