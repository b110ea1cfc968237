"""``binq quantize``: a checkpoint in, a packed checkpoint out."""

import argparse
from typing import Any

from binq.array.choices import DEFAULT_GROUP_SIZE
from binq.cli import arguments
from binq.cli.console import OK, checking_usage, tell, unknown_models_in_report
from binq.cli.options import add_command, add_paths, add_shared, check_family
from binq.formats import FORMATS
from binq.methods import METHODS


def add(commands: Any) -> None:
    """Adds the command."""
    quantize = add_command(
        commands,
        "quantize",
        "quantize a checkpoint folder or GGUF file",
        "  binq quantize model packed --format int4 --dry-run\n"
        "  binq quantize model packed --format ternary --rule '*.down_proj.weight=int4:g64'",
    )
    add_paths(quantize)
    quantize.add_argument(
        "--format", default="int4", metavar="FORMAT", help=f"{', '.join(FORMATS)} (default: int4)"
    )
    quantize.add_argument(
        "--group-size",
        type=arguments.group_size,
        default=DEFAULT_GROUP_SIZE,
        metavar="N",
        help="weights that share a scale: 32, 64, 128, 256 or 'row' (default: 128; mxfp4: 32)",
    )
    quantize.add_argument(
        "--method",
        metavar="METHOD",
        help=f"how scales are chosen: {', '.join(METHODS)} (default: mse)",
    )
    quantize.add_argument(
        "--no-symmetric",
        "--asymmetric",
        dest="symmetric",
        action="store_false",
        help="a zero point or an offset a group, any two levels (binary)",
    )
    quantize.add_argument(
        "--zero",
        metavar="WHAT",
        help="with --no-symmetric, where zero lies: a code (default of int4, int8) or an offset",
    )
    quantize.add_argument(
        "--nonfinite",
        default="raise",
        metavar="WHAT",
        help="what becomes of inf and NaN: raise, or zero reads them as 0 (default: raise)",
    )
    quantize.add_argument(
        "--rule",
        action="append",
        default=[],
        metavar="GLOB=FORMAT[:gN][:METHOD]",
        help="what becomes of tensors of that name; GLOB=keep; the first that matches wins",
    )
    quantize.add_argument(
        "--embeddings",
        metavar="FORMAT[:gN]",
        help="quantize embeddings, and the output head too (default: keep)",
    )
    quantize.add_argument(
        "--lm-head",
        metavar="FORMAT[:gN]",
        help="quantize the output head (default: as --embeddings)",
    )
    quantize.add_argument(
        "--importance",
        type=arguments.path,
        metavar="FILE",
        help="weigh errors by this imatrix or calibration (method mse)",
    )
    quantize.add_argument(
        "--calibration",
        type=arguments.path,
        metavar="FILE",
        help="what Calibrator.save wrote (method gptq, the default with it)",
    )
    target = quantize.add_mutually_exclusive_group()
    target.add_argument(
        "--target-bpw", type=float, metavar="N", help="choose formats for N bits a packed weight"
    )
    target.add_argument(
        "--target-bytes",
        type=arguments.size,
        metavar="SIZE",
        help="for a folder of 4GB, 500MB or N bytes",
    )
    add_shared(quantize)
    quantize.add_argument(
        "--dry-run", action="store_true", help="show the plan and the sizes, write nothing"
    )
    quantize.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    step = quantize.add_mutually_exclusive_group()
    step.add_argument(
        "--part",
        type=arguments.part,
        metavar="I/N",
        help="do every N-th shard, from I, beside other parts",
    )
    step.add_argument("--finalize", action="store_true", help="complete DST after all parts")
    quantize.add_argument(
        "--plot", type=arguments.path, metavar="FILE", help="draw the report: .png, .svg or .pdf"
    )
    quantize.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Quantizes, and returns the exit code."""
    from binq.convert import quantize_checkpoint
    from binq.convert.rules import check_choice_of, parse_option, parse_rules

    with checking_usage():
        method = options.method or ("gptq" if options.calibration else None)
        default = check_choice_of(
            options.format,
            options.group_size,
            method,
            options.symmetric,
            options.zero,
            nonfinite=options.nonfinite,
        )
        parse_rules(options.rule, default)
        parse_option("--embeddings", options.embeddings, default)
        parse_option("--lm-head", options.lm_head, default)
        check_family(options.family)
        if options.plot:
            arguments.check_plot(options.plot)
    with unknown_models_in_report():
        report = quantize_checkpoint(
            options.src,
            options.dst,
            options.format,
            group_size=options.group_size,
            method=options.method,
            symmetric=options.symmetric,
            zero=options.zero,
            nonfinite=options.nonfinite,
            rules=options.rule,
            embeddings=options.embeddings,
            lm_head=options.lm_head,
            importance=options.importance,
            calibration=options.calibration,
            target_bpw=options.target_bpw,
            target_bytes=options.target_bytes,
            family=options.family,
            max_shard_bytes=options.max_shard_size,
            dry_run=options.dry_run,
            overwrite=options.overwrite,
            resume=options.resume,
            part=options.part,
            finalize=options.finalize,
            progress=True,
        )
    tell(report, options)
    if options.plot:
        report.plot(options.plot)
    return OK
