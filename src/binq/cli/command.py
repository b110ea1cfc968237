"""The whole command: its parser, its exit codes and its signals."""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from binq._version import __version__
from binq.cli import bench, dequantize, export, generate, inspect, quantize, selftest, verify
from binq.cli.console import FAILED, INTERRUPTED, complain


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    whole = _parser()
    options, left = whole.parse_known_args(words)
    if left and not (options.run is generate.run and generate.take(options, left)):
        whole.error(f"unrecognized arguments: {' '.join(left)}")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal has no characters for is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending_as_interrupted():
            return int(options.run(options))
    except KeyboardInterrupt:
        more = "; --resume goes on with finished shards" if options.run is quantize.run else ""
        print(f"binq: interrupted{more}", file=sys.stderr)
        return INTERRUPTED
    except (OSError, ValueError, NotImplementedError, MemoryError, KeyError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        if isinstance(error, MemoryError):
            text = f"not enough memory{': ' * bool(text)}{text}"
        complain(text)
        return FAILED


@contextmanager
def _ending_as_interrupted() -> Iterator[None]:
    """SIGTERM, with which clusters end jobs, cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="binq",
        description="1-bit, ternary and int4 weights for numpy: checkpoints in, checkpoints out.",
        epilog="binq COMMAND --help has every option and an example.",
    )
    parser.add_argument(
        "--version", action="version", version=f"binq {__version__}", help="print the version"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (quantize, dequantize, export, generate, inspect, verify, bench, selftest):
        module.add(commands)
    return parser
