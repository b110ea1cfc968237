"""Writes one shard of a converted checkpoint: block by block, in bounded memory.

A shard is one task: it depends on the source and on the plan's items alone, gives the same bytes
wherever and however often it runs, and appears under its name only when it is whole.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.checkpoint.errors import Errors
from binq.checkpoint.plan import BLOCK_BYTES, Item
from binq.checkpoint.report import TensorReport
from binq.checkpoint.source import Checkpoint
from binq.errors import NonFiniteError
from binq.files.dtypes import dtype_name
from binq.files.metadata import Description, dump
from binq.files.writer import AppendWriter, replacing
from binq.quantize import quantize_unwarned

Progress = Callable[[int], None]
_COPY_BYTES = 1 << 26


def write_shard(
    source: Checkpoint, items: Sequence[Item], path: Path, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Writes ``items`` to the safetensors file ``path``; returns what the index needs to know.

    ``progress`` is called with the bytes of the source that were worked off since the last call.
    """
    described: dict[str, Description] = {}
    reports = []
    names = [name for item in items for name in _output_names(item)]
    # One thread reads ahead, one writes and measures what was packed last.
    with replacing(path) as temporary, ThreadPoolExecutor(2) as helpers:
        writer = AppendWriter(temporary, names)
        try:
            for item in items:
                start = time.perf_counter()
                if item.kept:
                    report = _keep(source, item, writer, progress)
                else:
                    report = _quantize(source, item, writer, progress, helpers)
                    described[item.tensor.name] = item.description
                report.seconds = time.perf_counter() - start
                reports.append(asdict(report))
            writer.close({"format": "np", "binq": dump(described)})
        except BaseException:
            writer.abandon()
            raise
    return {"file": path.name, "sizes": writer.sizes, "tensors": reports}


def _output_names(item: Item) -> list[str]:
    if not item.kept:
        return item.description.part_names(item.tensor.name)
    return list(item.tensor.stored) if item.tensor.copyable else [item.tensor.name]


def _keep(source: Checkpoint, item: Item, writer: AppendWriter, progress: Progress) -> TensorReport:
    tensor = item.tensor
    if tensor.copyable:
        for name in tensor.stored:
            info = source.info(name)
            writer.begin(name, info.dtype, info.shape)
            for start in range(0, info.nbytes, _COPY_BYTES):
                stop = min(start + _COPY_BYTES, info.nbytes)
                writer.write(source.read_bytes(name, start, stop))
                progress(stop - start)
    else:
        # The type exists in GGUF files only: its exact values, as float32.
        writer.begin(tensor.name, "F32", tensor.shape)
        if len(tensor.shape) < 2:
            writer.write(tensor.read(source))
        else:
            for matrix, (start, stop) in _blocks(item):
                writer.write(tensor.read_rows(source, matrix, start, stop))
        progress(item.bytes_before(source))
    return TensorReport(
        tensor.name,
        tensor.shape,
        item.label,
        tensor.role,
        item.bytes_before(source),
        item.bytes_after(source),
        item.reason,
    )


def _blocks(item: Item) -> Iterator[tuple[int, tuple[int, int]]]:
    for matrix in range(item.tensor.matrices):
        for block in item.tensor.blocks(BLOCK_BYTES):
            yield matrix, block


def _quantize(
    source: Checkpoint,
    item: Item,
    writer: AppendWriter,
    progress: Progress,
    helpers: ThreadPoolExecutor,
) -> TensorReport:
    scale_dtype = item.exact.scale_dtype if item.exact is not None else "float16"
    mark = writer.mark()
    while True:
        result = _try_quantize(source, item, writer, progress, helpers, scale_dtype)
        if result is not None:
            return result
        # Some scale does not fit float16: the tensor starts again with all of them in float32.
        scale_dtype = "float32"
        writer.rewind(mark)


def _try_quantize(
    source: Checkpoint,
    item: Item,
    writer: AppendWriter,
    progress: Progress,
    helpers: ThreadPoolExecutor,
    scale_dtype: str,
) -> TensorReport | None:
    """Writes one packed tensor; None where a scale does not fit ``scale_dtype``."""
    tensor, d = item.tensor, item.description
    shapes = d.part_shapes(np.dtype(scale_dtype))
    names = d.part_names(tensor.name)
    errors = Errors()
    small: list[list[NDArray[Any]]] = [[] for _ in names[1:]]
    writer.begin(names[0], dtype_name(shapes[0][0]), shapes[0][1])
    blocks = list(_blocks(item))
    progress_left = item.bytes_before(source)

    def read(at: int) -> NDArray[Any]:
        matrix, (start, stop) = blocks[at]
        return tensor.read_values(source, matrix, start, stop)

    def finish(values: NDArray[Any], packed: QuantizedArray) -> None:
        writer.write(packed.packed)
        for parts, part in zip(small, (packed.scales, packed.zero_points), strict=False):
            assert part is not None
            parts.append(part)
        errors.add(values, packed)

    last: Future[None] | None = None
    ahead = helpers.submit(read, 0) if blocks else None
    for at, (matrix, (start, stop)) in enumerate(blocks):
        assert ahead is not None
        values = ahead.result()
        # The next block is read while this one is quantized.
        ahead = helpers.submit(read, at + 1) if at + 1 < len(blocks) else None
        packed = _pack_rows(source, item, values, matrix, (start, stop), scale_dtype)
        if packed.scales.dtype != scale_dtype:
            pending: list[Future[Any]] = [future for future in (ahead, last) if future is not None]
            wait(pending)
            return None
        if last is not None:
            last.result()
        last = helpers.submit(finish, values, packed)
        done = item.bytes_before(source) // len(blocks)
        progress(done)
        progress_left -= done
    if last is not None:
        last.result()
    for name, (dtype, shape), parts in zip(names[1:], shapes[1:], small, strict=True):
        writer.begin(name, dtype_name(dtype), shape)
        for part in parts:
            writer.write(part)
    progress(progress_left)
    return TensorReport(
        tensor.name,
        tensor.shape,
        item.label,
        tensor.role,
        item.bytes_before(source),
        sum(t.itemsize * math.prod(s) for t, s in shapes),
        item.reason,
        *errors.result(),
    )


def _pack_rows(
    source: Checkpoint,
    item: Item,
    values: NDArray[Any],
    matrix: int,
    rows: tuple[int, int],
    scale_dtype: str,
) -> QuantizedArray:
    if item.exact is not None:
        return item.tensor.exact_rows(source, item.exact, matrix, *rows)
    choice = item.choice
    assert choice is not None
    try:
        packed, _ = quantize_unwarned(
            values,
            choice.format,
            group_size=choice.group_size,
            method=choice.method,
            symmetric=choice.symmetric,
            scale_dtype=scale_dtype,
        )
    except NonFiniteError as error:
        where = f"{item.tensor.name}, rows from {rows[0]}"
        if item.tensor.matrices > 1:
            where += f" of matrix {matrix}"
        raise NonFiniteError(f"{where}: {error}") from None
    return packed
