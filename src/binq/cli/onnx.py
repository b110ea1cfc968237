"""How ``binq export MODEL.onnx OUT --to onnx`` packs weights, which other exports have packed."""

import argparse
from typing import TYPE_CHECKING

from binq.cli import arguments

if TYPE_CHECKING:
    from binq.convert.report import Report

_OPTIONS = ("format", "group_size", "method", "symmetric", "rule", "accuracy_level")


def add_options(command: argparse.ArgumentParser) -> None:
    """Adds the options, whose defaults are None, so that it shows whether they were given."""
    graph = command.add_argument_group("where SRC is an .onnx file, whose weights are floats")
    graph.add_argument("--format", metavar="FORMAT", help="the format (default: int4)")
    graph.add_argument(
        "--group-size",
        type=arguments.group_size,
        default=argparse.SUPPRESS,
        metavar="N",
        help="weights that share a scale, or 'row' (default: 128)",
    )
    graph.add_argument("--method", metavar="METHOD", help="how scales are chosen (default: mse)")
    graph.add_argument(
        "--no-symmetric",
        "--asymmetric",
        dest="symmetric",
        action="store_false",
        default=None,
        help="a zero point a group (int2 to int8)",
    )
    graph.add_argument(
        "--rule",
        action="append",
        metavar="GLOB=WHAT",
        help="for weights of such a name: FORMAT[:gN] or keep; the first that matches decides",
    )
    graph.add_argument(
        "--accuracy-level",
        type=int,
        metavar="N",
        help="how ONNX Runtime takes x: 0 as it is (default), 4 as 8-bit integers",
    )


def given(options: argparse.Namespace) -> list[str]:
    """Returns the options that were given, as they are spelled."""
    # A group size of None is one a row.
    found = [name for name in _OPTIONS if getattr(options, name, None) is not None]
    if hasattr(options, "group_size") and "group_size" not in found:
        found.append("group_size")
    return [f"--{name.replace('_', '-')}" for name in found]


def run(options: argparse.Namespace) -> "Report":
    """Returns the report of rewriting a graph."""
    from binq.export import quantize_onnx

    return quantize_onnx(
        options.src,
        options.dst,
        options.format or "int4",
        group_size=getattr(options, "group_size", 128),
        method=options.method,
        symmetric=options.symmetric is not False,
        rules=options.rule or (),
        accuracy_level=options.accuracy_level or 0,
        overwrite=options.overwrite,
    )
