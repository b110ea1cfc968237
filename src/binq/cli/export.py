"""``binq export``: packed weights in another library's form."""

import argparse
from typing import Any

from binq.cli import arguments, onnx
from binq.cli.console import OK, checking_usage, tell, usage
from binq.cli.options import add_command, add_shared, check_family


def add(commands: Any) -> None:
    """Adds the command."""
    export = add_command(
        commands,
        "export",
        "write packed weights in another library's form, without loss",
        "  binq export packed served --to compressed-tensors\n"
        "  binq export packed model.gguf --to gguf\n"
        "  binq export model.onnx packed.onnx --to onnx --format int4 --group-size 32",
    )
    export.add_argument("src", type=arguments.path, metavar="SRC", help="folder or file to read")
    export.add_argument(
        "dst", type=arguments.path, metavar="OUT", help="folder to make, or file of a form of one"
    )
    export.add_argument(
        "--to", required=True, metavar="FORM", help="the form; docs/exporting.md has a table"
    )
    add_shared(export)
    onnx.add_options(export)
    export.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Exports, and returns the exit code."""
    from binq.export import export_checkpoint, find_target

    with checking_usage():
        find_target(options.to, "--to")
        check_family(options.family)
    graph = options.src.suffix == ".onnx" and options.src.is_file()
    if graph and options.to != "onnx":
        usage(f"an .onnx file is exported --to onnx, got {options.to!r}")
    if not graph and (given := onnx.given(options)):
        usage(f"{given[0]} is for an .onnx file as SRC: packed weights are exported as they are")
    if graph:
        report = onnx.run(options)
    else:
        report = export_checkpoint(
            options.src,
            options.dst,
            to=options.to,
            max_shard_bytes=options.max_shard_size,
            overwrite=options.overwrite,
            family=options.family,
            progress=True,
        )
    tell(report, options)
    return OK
