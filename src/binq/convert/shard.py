"""Writes one shard of a converted checkpoint: block by block, in bounded memory.

A shard is one task: it depends on the source and on the plan's items alone, gives the same bytes
wherever and however often it runs, and appears under its name only when it is whole.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.convert.block import Block, pack_stored
from binq.convert.evidence import EvidenceFile, Knowledge
from binq.convert.health import Health, moments
from binq.convert.item import FLOATS, Item
from binq.convert.plan import BLOCK_BYTES, COPY_BYTES, lanes
from binq.convert.rewrite import HALF, Rounding, round_to
from binq.convert.tensor_report import TensorReport
from binq.errors import NonFiniteError
from binq.files.checkpoint import Checkpoint
from binq.files.dtypes import dtype_name
from binq.files.metadata import Description, dump
from binq.files.replacing import replacing
from binq.files.writer import AppendWriter, header_room
from binq.formats.scales import scale_dtype
from binq.methods import Task
from binq.methods.measure import Errors, tile_errors
from binq.methods.quantize import (
    bias_correction,
    check_weights,
    get_method,
    is_finite,
    quantize_task,
    with_zeros,
)
from binq.models.tensor import LogicalTensor
from binq.storage.base import to_float32

Progress = Callable[[int], None]


def write_shard(
    source: Checkpoint, items: Sequence[Item], path: Path, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Writes ``items`` to the safetensors file ``path``; returns what the index needs to know.

    ``progress`` is called with the bytes of the source that were worked off since the last call.
    """
    described: dict[str, Description] = {}
    reports = []
    names = [name for item in items for name in item.output_names]
    with replacing(path, source.mode) as temporary, _Packer(source, items) as packer:
        writer = AppendWriter(temporary, header_room(names))
        try:
            for item in items:
                start = time.perf_counter()
                if item.corrected:
                    report = _correct(source, item, writer, progress, packer)
                elif item.kept:
                    report = _keep(source, item, writer, progress)
                else:
                    report = _quantize(source, item, writer, progress, packer)
                    described[item.tensor.name] = packer.description(item)
                report.seconds = time.perf_counter() - start
                reports.append(asdict(report))
            writer.close({"format": "np", "binq": dump(described)})
        except BaseException:
            writer.abandon()
            raise
    return {"file": path.name, "sizes": writer.sizes, "tensors": reports}


class _Packer:
    """Reads, packs and measures blocks of rows, and hands them over in the order of the items.

    Each block is the work of one thread, from reading to measuring, while that core's cache holds
    it. The threads run ahead of what was handed over by two blocks, whose floats are gone by then.
    """

    def __init__(self, source: Checkpoint, items: Sequence[Item]) -> None:
        self._source = source
        self._places = [
            (item, matrix, rows)
            for item in items
            if not item.kept
            for matrix, rows in _blocks(item)
        ]
        self._scale_dtypes: dict[str, str] = {}
        self._lanes = lanes()
        # Blocks enough for all: no thread takes part of another's.
        many = self._lanes > 1 and len(self._places) >= 4 * self._lanes
        self._threads = ThreadPoolExecutor(
            self._lanes, initializer=_core.work_alone if many else None
        )
        self._next = 0
        self._knowledge: dict[EvidenceFile, Knowledge] = {}
        self._lock = threading.Lock()
        self.corrections: dict[str, NDArray[np.float32]] = {}
        self._running: deque[Future[Block]] = deque()

    def take(self) -> Block:
        """Returns the next block."""
        self._run_ahead()
        block = self._running.popleft().result()
        self._run_ahead()
        return block

    def scale_dtype(self, item: Item) -> str:
        """Returns the name of the type of the scales of a tensor."""
        assert item.choice is not None
        first = item.choice.packing.kind.scale_dtype
        if item.exact is not None:
            first = item.exact.scale_dtype
        return self._scale_dtypes.get(item.tensor.name, first)

    def description(self, item: Item) -> Description:
        """Returns what the file says of a packed tensor."""
        return item.description.with_types(*self.dtypes(item))

    def dtypes(self, item: Item) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """Returns the dtypes of scales and offsets of a tensor."""
        if item.exact is not None:
            return item.exact.dtypes
        dtype = scale_dtype(self.scale_dtype(item))
        return dtype, dtype

    def restart(self, item: Item, name: str) -> None:
        """Goes back to the first block of a tensor, with scales of another type."""
        self._stop()
        self._scale_dtypes[item.tensor.name] = name
        self._next = next(i for i, place in enumerate(self._places) if place[0] is item)

    def _run_ahead(self) -> None:
        while len(self._running) < self._lanes + 2 and self._next < len(self._places):
            self._running.append(self._threads.submit(self._pack, *self._places[self._next]))
            self._next += 1

    def _pack(self, item: Item, matrix: int, rows: tuple[int, int]) -> Block:
        dtype = scale_dtype(self.scale_dtype(item))
        block = pack_stored(self._source, item, matrix, rows, dtype)
        if block is not None:
            return block
        if item.exact is not None:
            known, values = item.tensor.exact_block(self._source, item.exact, matrix, *rows)
            errors = tile_errors(values, known)
            return Block(known, errors, matrix, moments(values))
        values = item.tensor.read_values(self._source, matrix, *rows)
        nonfinite = 0
        if item.choice is not None and item.choice.nonfinite == "zero":
            nonfinite = values.size - int(np.count_nonzero(is_finite(values)))
            values = with_zeros(values)
        task = self._task(item, values, matrix)
        packed = _pack_rows(self._source, item, values, matrix, rows, task)
        correction = None
        if task.centred and task.statistics is not None:
            correction = bias_correction(task.weights, QuantizedArray._of(packed), task.statistics)
        errors = tile_errors(values, packed)
        return Block(packed, errors, matrix, moments(values), nonfinite, correction)

    def _task(self, item: Item, values: NDArray[Any], matrix: int) -> Task:
        """Returns what is to be done with a block of rows, and what is known of their inputs."""
        assert item.choice is not None
        dtype = scale_dtype(self.scale_dtype(item))
        task = Task(check_weights(values), item.choice.packing, dtype)
        evidence = item.evidence
        if evidence is None:
            return task
        with self._lock:
            if evidence.file not in self._knowledge:
                self._knowledge[evidence.file] = Knowledge(evidence.file)
            knowledge = self._knowledge[evidence.file]
            inputs = item.tensor.shape[-1]
            if evidence.moments:
                known = knowledge.moments(evidence, inputs)
                return replace(task, statistics=known, centred=evidence.centred)
            return replace(task, importance=knowledge.importance(evidence, matrix, inputs))

    def _stop(self) -> None:
        for block in self._running:
            block.cancel()
        wait(self._running)
        self._running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._threads.shutdown()


def _keep(source: Checkpoint, item: Item, writer: AppendWriter, progress: Progress) -> TensorReport:
    report = item.report(source)
    if item.tied:
        progress(report.bytes_before)
    elif item.tensor.copyable:
        for name, copy in item.tensor.copies.items():
            info = source.info(name)
            writer.begin(copy, info.dtype, info.shape)
            for start in range(0, info.nbytes, COPY_BYTES):
                stop = min(start + COPY_BYTES, info.nbytes)
                writer.write(source.read_bytes(name, start, stop))
                progress(stop - start)
    else:
        _rewrite(source, item, writer, report)
        progress(report.bytes_before)
    return report


def _correct(
    source: Checkpoint, item: Item, writer: AppendWriter, progress: Progress, packer: _Packer
) -> TensorReport:
    """Writes a bias with what the packed weight before it leaves over of its inputs' mean."""
    report = item.report(source)
    (name,) = item.tensor.copies.values()
    bias = item.tensor.storage.read_whole(source)
    corrected = bias.astype(np.float64) + packer.corrections.pop(item.corrected)
    writer.begin(name, item.tensor.dtype, item.tensor.shape)
    writer.write(corrected.astype(bias.dtype))
    report.reason = f"corrected for {item.corrected}"
    progress(report.bytes_before)
    return report


def _rewrite(source: Checkpoint, item: Item, writer: AppendWriter, report: TensorReport) -> None:
    """Writes the values of a kept tensor, rounded where the output does not have its type."""
    tensor, name = item.tensor, item.tensor.name
    mark = writer.mark()
    writer.begin(name, item.kept_dtype, tensor.shape)
    if tensor.dtype in FLOATS:
        for values in tensor.read_all(source, BLOCK_BYTES):
            writer.write(values)
        return
    rounding = Rounding()
    for values in tensor.read_all(source, BLOCK_BYTES):
        writer.write(rounding.add(to_float32(values)))
    if rounding.dtype != HALF:
        writer.rewind(mark)
        writer.begin(name, "BF16", tensor.shape)
        for values in tensor.read_all(source, BLOCK_BYTES):
            writer.write(round_to(values, rounding.dtype))
    report.format = dtype_name(rounding.dtype)
    report.sqnr_db, report.max_error = rounding.sqnr_db, rounding.max_error
    if rounding.max_error:
        report.reason += f"; rounded from {tensor.dtype}"


def _blocks(item: Item) -> Iterator[tuple[int, tuple[int, int]]]:
    for matrix in range(item.tensor.matrices):
        for block in item.tensor.blocks(BLOCK_BYTES):
            yield matrix, block


def _quantize(
    source: Checkpoint, item: Item, writer: AppendWriter, progress: Progress, packer: _Packer
) -> TensorReport:
    mark = writer.mark()
    meter = _Meter(item.bytes_before(source), progress)
    while True:
        result = _try_quantize(source, item, writer, meter, packer)
        if result is not None:
            return result
        # Some scale does not fit float16: the tensor starts again with all of them in float32.
        packer.restart(item, "float32")
        writer.rewind(mark)


class _Meter:
    """Says how far a tensor is; what is done a second time was said before."""

    def __init__(self, nbytes: int, progress: Progress) -> None:
        self._nbytes, self._progress = nbytes, progress
        self._said = 0

    def reach(self, done: int, of: int) -> None:
        """Says that ``done`` of ``of`` equal parts are done."""
        now = max(self._said, self._nbytes * done // of)
        self._progress(now - self._said)
        self._said = now


def _try_quantize(
    source: Checkpoint, item: Item, writer: AppendWriter, meter: _Meter, packer: _Packer
) -> TensorReport | None:
    """Writes one packed tensor; None where a scale does not fit its type."""
    tensor, d = item.tensor, item.description
    dtype, offset_dtype = packer.dtypes(item)
    parts = d.packing.parts(d.shape, dtype, offset_dtype)
    names = d.part_names(tensor.name)
    errors, health = Errors(), Health(tensor.matrices)
    small: list[list[NDArray[Any]]] = [[] for _ in names[1:]]
    corrections: list[NDArray[np.float32]] = []
    writer.begin(names[0], dtype_name(parts[0].dtype), parts[0].shape)
    blocks = len(list(_blocks(item)))
    for number in range(blocks):
        block = packer.take()
        if block.packed.scales.dtype != dtype:
            return None
        writer.write(block.packed.packed)
        for collected, array in zip(small, block.packed.parts[1:], strict=True):
            collected.append(array)
        errors.add(block.errors)
        if block.correction is not None:
            corrections.append(block.correction)
        signal = float(block.errors[:, 0].sum())
        health.add(block.matrix, block.moments, signal, block.nonfinite)
        meter.reach(number + 1, blocks)
    for name, part, collected in zip(names[1:], parts[1:], small, strict=True):
        writer.begin(name, dtype_name(part.dtype), part.shape)
        for array in collected:
            writer.write(array)
    if corrections:
        packer.corrections[tensor.name] = np.concatenate(corrections)
    meter.reach(1, 1)
    report = item.report(source)
    report.bytes_after = sum(part.dtype.itemsize * math.prod(part.shape) for part in parts)
    report.sqnr_db, report.max_error, report.clipped, report.zero_scales = errors.result()
    report.signal = errors.signal
    report.zero_matrices, report.mean, report.nonfinite = (
        health.zeros,
        health.mean,
        health.nonfinite,
    )
    return report


def _pack_rows(
    source: Checkpoint,
    item: Item,
    values: NDArray[Any],
    matrix: int,
    rows: tuple[int, int],
    task: Task,
) -> Packed:
    choice = item.choice
    assert choice is not None
    try:
        packed, _ = quantize_task(task, get_method(choice.method, choice.packing))
    except NonFiniteError:
        raise NonFiniteError(_nonfinite(item.tensor, values, matrix, rows)) from None
    except ValueError as error:
        stack = f" of matrix {matrix}" if item.tensor.matrices > 1 else ""
        raise ValueError(f"{item.tensor.name}, rows from {rows[0]}{stack}: {error}") from None
    return packed


def _nonfinite(
    tensor: LogicalTensor, values: NDArray[Any], matrix: int, rows: tuple[int, int]
) -> str:
    """Returns what is wrong with a block of weights, in the words of :func:`binq.quantize`."""
    finite = is_finite(values)
    row, column = divmod(int(np.argmin(finite)), values.shape[1])
    index = (*np.unravel_index(matrix, tensor.shape[:-2]), rows[0] + row, column)
    count = finite.size - int(np.count_nonzero(finite))
    what = "1 value is" if count == 1 else f"{count} values are"
    return (
        f"{tensor.name}: {what} not finite in rows {rows[0]} to {rows[1]}, first "
        f"w[{', '.join(map(str, index))}] = {float(values[row, column])}; nonfinite='zero' "
        "(--nonfinite zero) reads them as 0"
    )
