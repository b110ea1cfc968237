"""The ``binq`` command: quantize, dequantize, export, generate, inspect, verify, bench, selftest.

Exit codes: 0 ok, 1 failed, 2 wrong usage, 130 interrupted. Results go to standard output, progress
and complaints to standard error.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from binq import arguments, generate_command, onnx_command
from binq._version import __version__
from binq.array.choices import DEFAULT_GROUP_SIZE
from binq.formats import FORMATS
from binq.methods import METHODS

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = _parser()
    options, left = parser.parse_known_args(words)
    if left and not (options.run is generate_command.run and generate_command.take(options, left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal has no characters for is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ending_as_interrupted():
            return int(options.run(options))
    except KeyboardInterrupt:
        more = "; --resume goes on with finished shards" if options.run is _quantize else ""
        print(f"binq: interrupted{more}", file=sys.stderr)
        return INTERRUPTED
    except (OSError, ValueError, NotImplementedError, MemoryError, KeyError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        if isinstance(error, MemoryError):
            text = f"not enough memory{': ' * bool(text)}{text}"
        _complain(text)
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


def _print(text: str) -> None:
    """Writes a line of results; where its reader went away, as ``head`` does, the work goes on."""
    from binq.convert.tables import shown

    try:
        print("\n".join(map(shown, text.split("\n"))), flush=True)
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _command(commands: Any, name: str, what: str, examples: str) -> argparse.ArgumentParser:
    """Returns the parser of a command, whose help ends with examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=f"example:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


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
    _add_quantize(commands)
    _add_dequantize(commands)
    _add_export(commands)

    generate = _command(commands, "generate", "answer with a model", "  binq generate packed Hello")
    generate_command.add_options(generate)
    generate.set_defaults(run=generate_command.run)

    inspect = _command(
        commands,
        "inspect",
        "show what a file or folder holds, and how near it is to its source",
        "  binq inspect packed",
    )
    inspect.add_argument(
        "path", type=arguments.path, metavar="PATH", help="a file or folder of any kind"
    )
    inspect.add_argument("--json", action="store_true", help="a list as one JSON document")
    inspect.set_defaults(run=_inspect)

    verify = _command(
        commands,
        "verify",
        "read everything again and compare",
        "  binq verify packed --against model",
    )
    verify.add_argument(
        "path", type=arguments.path, metavar="PATH", help="a file or folder of binq"
    )
    verify.add_argument(
        "--against", type=arguments.path, metavar="SRC", help="compare with what it was made from"
    )
    verify.set_defaults(run=_verify)

    bench = _command(
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
    bench.set_defaults(run=_bench)

    selftest = _command(commands, "selftest", "check this installation", "  binq selftest")
    selftest.set_defaults(run=_selftest)
    return parser


def _add_paths(command: argparse.ArgumentParser) -> None:
    command.add_argument("src", type=arguments.path, metavar="SRC", help="folder or file to read")
    command.add_argument("dst", type=arguments.path, metavar="DST", help="folder to make")


def _add_shared(command: argparse.ArgumentParser) -> None:
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


def _add_quantize(commands: Any) -> None:
    quantize = _command(
        commands,
        "quantize",
        "quantize a checkpoint folder or GGUF file",
        "  binq quantize model packed --format int4 --dry-run\n"
        "  binq quantize model packed --format ternary --rule '*.down_proj.weight=int4:g64'",
    )
    _add_paths(quantize)
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
        help="a zero point a group (int4), any two levels (binary)",
    )
    quantize.add_argument(
        "--zero",
        metavar="WHAT",
        help="with --no-symmetric, where zero lies in int4: a code (default) or an offset",
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
    _add_shared(quantize)
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
    quantize.set_defaults(run=_quantize)


def _add_dequantize(commands: Any) -> None:
    dequantize = _command(
        commands,
        "dequantize",
        "write a plain checkpoint of anything that binq reads",
        "  binq dequantize DeepSeek-V3 plain --dtype bfloat16",
    )
    _add_paths(dequantize)
    dequantize.add_argument(
        "--dtype",
        default="bfloat16",
        metavar="DTYPE",
        help="type of weights that were quantized: bfloat16 or float32 (default: bfloat16)",
    )
    _add_shared(dequantize)
    dequantize.set_defaults(run=_dequantize)


def _add_export(commands: Any) -> None:
    export = _command(
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
    _add_shared(export)
    onnx_command.add_options(export)
    export.set_defaults(run=_export)


def _complain(text: str) -> None:
    from binq.convert.tables import shown

    print(f"binq: {shown(text)}", file=sys.stderr)


def _usage(message: str) -> NoReturn:
    _complain(message)
    raise SystemExit(USAGE)


def _quantize(options: argparse.Namespace) -> int:
    from binq.convert import quantize_checkpoint
    from binq.convert.rules import check_choice_of, parse_option, parse_rules
    from binq.errors import UnknownModelWarning
    from binq.models.table import by_name

    try:
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
        if options.family is not None:
            by_name(options.family)
        if options.plot:
            arguments.check_plot(options.plot)
    except ValueError as error:
        _usage(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownModelWarning)  # the report says it too
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
    _print(report.to_json() if options.json else str(report))
    if options.plot:
        report.plot(options.plot)
    for warning in report.warnings:
        _complain(warning)
    return OK


def _dequantize(options: argparse.Namespace) -> int:
    from binq.array.checks import check_choice
    from binq.convert import dequantize_checkpoint
    from binq.convert.plain import DTYPES
    from binq.errors import UnknownModelWarning
    from binq.models.table import by_name

    try:
        check_choice("--dtype", options.dtype, DTYPES)
        if options.family is not None:
            by_name(options.family)
    except ValueError as error:
        _usage(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownModelWarning)  # the report says it too
        report = dequantize_checkpoint(
            options.src,
            options.dst,
            dtype=options.dtype,
            max_shard_bytes=options.max_shard_size,
            overwrite=options.overwrite,
            family=options.family,
            progress=True,
        )
    _print(report.to_json() if options.json else str(report))
    for warning in report.warnings:
        _complain(warning)
    return OK


def _export(options: argparse.Namespace) -> int:
    from binq.export import export_checkpoint, find_target
    from binq.models.table import by_name

    try:
        find_target(options.to, "--to")
        if options.family is not None:
            by_name(options.family)
    except ValueError as error:
        _usage(str(error))
    graph = options.src.suffix == ".onnx" and options.src.is_file()
    if graph and options.to != "onnx":
        _usage(f"an .onnx file is exported --to onnx, got {options.to!r}")
    if not graph and (given := onnx_command.given(options)):
        _usage(f"{given[0]} is for an .onnx file as SRC: packed weights are exported as they are")
    if graph:
        report = onnx_command.run(options)
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
    _print(report.to_json() if options.json else str(report))
    for warning in report.warnings:
        _complain(warning)
    return OK


def _inspect(options: argparse.Namespace) -> int:
    from binq.convert.inspect import inspect, inspect_json, inspect_text, saved_report

    entries = inspect(options.path)
    if options.json:
        _print(inspect_json(entries))
    else:
        _print(inspect_text(entries, saved_report(options.path)))
    return OK


def _verify(options: argparse.Namespace) -> int:
    from binq.convert.tables import shown
    from binq.convert.verify import verify

    problems = 0
    for problem in verify(options.path, options.against):
        _print(shown(problem))
        problems += 1
    _print(f"{shown(str(options.path))}: {'ok' if not problems else f'{problems} problems'}")
    return FAILED if problems else OK


def _bench(options: argparse.Namespace) -> int:
    from binq.bench import bench

    bench(options.features, _print)
    return OK


def _selftest(_: argparse.Namespace) -> int:
    from binq.selftest import selftest

    return OK if selftest(_print) else FAILED
