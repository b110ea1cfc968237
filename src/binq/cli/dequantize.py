"""``binq dequantize``: whatever binq reads in, a plain checkpoint out."""

import argparse
from typing import Any

from binq.cli.console import OK, checking_usage, tell, unknown_models_in_report
from binq.cli.options import add_command, add_paths, add_shared, check_family


def add(commands: Any) -> None:
    """Adds the command."""
    dequantize = add_command(
        commands,
        "dequantize",
        "write a plain checkpoint of anything that binq reads",
        "  binq dequantize DeepSeek-V3 plain --dtype bfloat16",
    )
    add_paths(dequantize)
    dequantize.add_argument(
        "--dtype",
        default="bfloat16",
        metavar="DTYPE",
        help="type of weights that were quantized: bfloat16 or float32 (default: bfloat16)",
    )
    add_shared(dequantize)
    dequantize.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Dequantizes, and returns the exit code."""
    from binq.array.checks import check_choice
    from binq.convert import dequantize_checkpoint
    from binq.convert.plain import DTYPES

    with checking_usage():
        check_choice("--dtype", options.dtype, DTYPES)
        check_family(options.family)
    with unknown_models_in_report():
        report = dequantize_checkpoint(
            options.src,
            options.dst,
            dtype=options.dtype,
            max_shard_bytes=options.max_shard_size,
            overwrite=options.overwrite,
            family=options.family,
            progress=True,
        )
    tell(report, options)
    return OK
