"""quantize_checkpoint: a checkpoint folder in, a packed checkpoint folder out."""

import os
import sys
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import Executor
from numbers import Real
from pathlib import Path
from typing import Any

from binq.array.checks import check_int, check_path
from binq.array.choices import (
    DEFAULT_GROUP_SIZE,
    FormatName,
    MethodName,
    NonfiniteName,
    ZeroName,
)
from binq.array.packing import Packing
from binq.convert.destination import check_target
from binq.convert.evidence import EvidenceFile
from binq.convert.fingerprint import conversion_fingerprint
from binq.convert.item import Settings
from binq.convert.output import links_left_out
from binq.convert.plan import Plan, make_plan
from binq.convert.report import Report
from binq.convert.rules import check_choice_of
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.convert.work import Work
from binq.errors import UnknownModelWarning
from binq.files.checkpoint import Checkpoint
from binq.methods import Method
from binq.models import what_is_unknown


def quantize_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    format: FormatName = "int4",
    *,
    group_size: int | None = DEFAULT_GROUP_SIZE,
    method: MethodName | Method | None = None,
    symmetric: bool = True,
    zero: ZeroName | None = None,
    nonfinite: NonfiniteName = "raise",
    rules: Iterable[str] = (),
    embeddings: str | None = None,
    lm_head: str | None = None,
    importance: str | os.PathLike[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    target_bpw: float | None = None,
    target_bytes: int | None = None,
    family: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    dry_run: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    part: tuple[int, int] | None = None,
    finalize: bool = False,
    executor: Executor | None = None,
    progress: bool | Progress = False,
) -> Report:
    """Returns a report of quantizing a checkpoint folder (or GGUF file) into a new folder.

    Linear weights, experts included, are packed; norms, routers, embeddings and whatever the
    model's family keeps are copied as they are stored (docs/checkpoints.md). Weights that already
    are low-bit stay exactly what they are. Everything is streamed: memory is bounded by a
    block of rows for each thread (at most 8), 32 MiB at up to three times its size (more for very
    wide weights that store rows as columns), and the scales of the largest tensor, however large
    the checkpoint is; ``Report.peak_bytes`` says it in bytes.

    - src: a folder with ``model.safetensors`` or ``model.safetensors.index.json``, or a GGUF file
    - dst: the folder to make; its name appears when it is complete, until then the work lies in
      ``dst.partial``
    - format, group_size, method, symmetric, zero, nonfinite: as for :func:`binq.quantize`; the
      method's default is ``"mse"``
    - rules: ``"GLOB=FORMAT[:gN][:METHOD]"`` or ``"GLOB=keep"``, the first that matches a tensor's
      name wins; one that matches nothing is an error
    - embeddings, lm_head: a format such as ``"int4:g64"`` for these, which are kept otherwise (or
      packed without loss where they are stored in one or two bits), or ``"keep"``; embeddings
      serves for both
    - family: the family of models (docs/checkpoints.md) whose rules decide, by its name or one of
      its model types; ``"generic"`` for any model. None: the one that the source's configuration
      tells, or the generic one, with an UnknownModelWarning
    - importance: a file of the mean square of each input, an imatrix of llama.cpp (GGUF) or a
      saved :class:`binq.Calibrator`: method ``"mse"`` weighs its errors by them
    - calibration: a saved :class:`binq.Calibrator`, whose names are those of the weights; the
      method's default is then ``"gptq"``. The bias of a layer that has one is corrected
    - target_bpw, target_bytes: choose format and group size of each tensor that no rule decides, of
      int2 and more bits in groups of 32 to 128, so that what the model is expected to lose is the
      least at that many bits a packed weight, or bytes of all tensors: errors of a few rows, by
      importance or calibration where it is given, times the calibration's sensitivities. format
      and group_size are left out then
    - max_shard_bytes: where a new file begins
    - dry_run: plan only, write nothing
    - overwrite: replace dst if it exists; resume: go on with the work of a killed run of the same
      settings on the same source, with the same bytes in the end
    - part: ``(i, n)``, i from 1: do every n-th shard only, beside other parts; finalize: check
      that all parts are there and complete dst
    - executor: any concurrent.futures.Executor that runs the shards (threads, processes, Dask);
      src and dst must be there for its workers under the same paths
    - progress: True for a bar on a terminal, or a function called with numbers of bytes

    Raises ValueError for settings, FileExistsError for an existing dst, FormatError and
    UnsupportedFormatError for the source, NonFiniteError naming the tensor.

    >>> import binq, numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "src").mkdir()
    >>> _ = (folder / "src" / "config.json").write_text('{"model_type": "qwen3"}')
    >>> w = {"model.layers.0.mlp.up_proj.weight": np.arange(8192.0).reshape(64, 128)}
    >>> binq.save_file(w, folder / "src" / "model.safetensors")
    >>> report = binq.quantize_checkpoint(folder / "src", folder / "dst", "int4")
    >>> report.bytes_before, report.bytes_after
    (65536, 4224)
    """
    evidence = (
        EvidenceFile.checked("importance", importance),
        EvidenceFile.checked("calibration", calibration),
    )
    if method is None and calibration is not None:
        method = "gptq"
    default = check_choice_of(format, group_size, method, symmetric, zero, nonfinite)
    check_int("max_shard_bytes", max_shard_bytes, 1, 2**60)
    settings = Settings(
        default,
        tuple(rules),
        embeddings,
        lm_head,
        max_shard_bytes,
        family,
        *evidence,
        *_check_targets(target_bpw, target_bytes, default.packing),
    )
    part = _check_part(part)
    # A link stays a link: the folder behind it is replaced.
    target = Path(os.path.realpath(check_path("dst", dst)))
    with Checkpoint(src) as source:
        # First: what changes from here on is noticed.
        fingerprint = conversion_fingerprint(source, settings)
        plan = make_plan(source, settings)
        unknown = what_is_unknown(source, family)
        if unknown:
            warnings.warn(f"{source.path}: {unknown}", UnknownModelWarning, stacklevel=2)
        if dry_run:
            return _planned(source, target, plan)
        check_target(source, target)
        work = Work(source, target, plan, settings, fingerprint)
        joins = resume or part is not None or finalize
        # A part that may overwrite does its shards anew: the way to repair a damaged DST.
        if joins and (part is None or not overwrite) and work.is_complete():
            work.tidy()
            return _made(source, target, plan)
        work.check_free(overwrite, joins)
        if finalize:
            work.check_begun()
        started = time.perf_counter()
        with work.opened(joins, overwrite, None if finalize else part):
            left = [] if finalize else work.left(part)
            nbytes = work.bytes_of(left)
            with Bar(progress, nbytes) as advance:
                work.run(left, executor, advance)
            work.check_source()
            report = _finished(work)
            if part is None:
                work.complete(overwrite, report)
        report.seconds = time.perf_counter() - started
        report.bytes_done = nbytes
    return report


def _check_targets(
    bpw: float | None, nbytes: int | None, packing: Packing
) -> tuple[float | None, int | None]:
    """Returns the targets, of which at most one is given. Raises ValueError or TypeError."""
    if bpw is None and nbytes is None:
        return None, None
    if bpw is not None and nbytes is not None:
        raise ValueError("target_bpw must be None where target_bytes is given")
    if not packing.symmetric:
        raise ValueError("symmetric must be True with a target: it chooses among symmetric formats")
    if (packing.format, packing.group_size) != ("int4", DEFAULT_GROUP_SIZE):
        raise ValueError(
            "format and group_size must be left out with a target, which chooses them (rules may "
            f"decide for some tensors), got {packing.format} in groups of {packing.group_size}"
        )
    if nbytes is not None:
        return None, check_int("target_bytes", nbytes, 1, 2**60)
    if isinstance(bpw, bool) or not isinstance(bpw, Real):
        raise TypeError(f"target_bpw must be a number, got {bpw!r}")
    if not 0 < bpw < 64:
        raise ValueError(f"target_bpw must be above 0 and below 64 bits, got {bpw}")
    return float(bpw), None


def _check_part(part: tuple[int, int] | None) -> tuple[int, int] | None:
    if part is None:
        return None
    try:
        i, n = part
    except (TypeError, ValueError):
        raise ValueError(f"part must be (i, n), got {part!r}") from None
    n = check_int("part[1]", n, 1)
    return check_int("part[0]", i, 1, n), n


def _planned(source: Checkpoint, target: Path, plan: Plan, dry_run: bool = True) -> Report:
    report = Report(str(source.path), str(target), dry_run=dry_run, peak_bytes=plan.peak_bytes)
    report.tensors = [item.report(source) for item in plan.items]
    report.notes = [*plan.notes, *links_left_out(source)]
    return report


def _made(source: Checkpoint, target: Path, plan: Plan) -> Report:
    """Returns the report of a conversion that was complete already: sizes, and no errors."""
    report = _planned(source, target, plan, dry_run=False)
    with Checkpoint(target) as made:
        for entry, item in zip(report.tensors, plan.items, strict=True):
            entry.bytes_after = sum(made.info(name).nbytes for name in item.output_names)
    return report


def _finished(work: Work) -> Report:
    """Returns the report over the shards that are done."""
    report = Report(str(work.source.path), str(work.target), peak_bytes=work.plan.peak_bytes)
    for result in work.results():
        for entry in result["tensors"]:
            report.tensors.append(TensorReport(**entry | {"shape": tuple(entry["shape"])}))
    report.notes = [*work.plan.notes, *links_left_out(work.source)]
    return report


class Bar:
    """A progress bar on a terminal, a user's own function, or nothing."""

    def __init__(self, progress: bool | Progress, total: int) -> None:
        self.bar: Any = None
        self.advance: Progress = lambda _: None
        if callable(progress):
            self.advance = progress
        elif progress and sys.stderr is not None:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="B", unit_scale=True, disable=None)
            self.advance = self.bar.update

    def __enter__(self) -> Progress:
        return self.advance

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
