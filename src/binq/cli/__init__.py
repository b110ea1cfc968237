"""The ``binq`` command: a module for each of quantize, dequantize, export, generate, inspect, ...

Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted. Results go to standard output, progress
and complaints to standard error. ``binq --help`` imports no more than names and defaults: what a
command needs is imported when it runs.
"""

from binq.cli.command import main

__all__ = ["main"]
