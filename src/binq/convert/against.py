"""Compares what was written with what it was written from, matrix by matrix."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from math import inf, log10
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq._memory import as_bytes
from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.convert.ahead import done_ahead
from binq.convert.item import FLOATS
from binq.convert.plan import BLOCK_BYTES, COPY_BYTES
from binq.convert.rewrite import round_to
from binq.convert.tables import shown
from binq.errors import FormatError, UnsupportedFormatError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import Checkpoint, open_file
from binq.files.dtypes import numpy_dtype
from binq.files.stored import StoredPacked
from binq.files.tensor_file import TensorFile
from binq.methods import METHODS, Task
from binq.methods.measure import tile_errors
from binq.methods.quantize import check_weights, get_method, quantize_task, with_zeros
from binq.models import logical_tensors
from binq.models.tensor import LogicalTensor
from binq.storage.base import Exact

# Another version of a method may round otherwise, but is not that much worse in any row, nor by
# more of its signal than the rounding of scales takes.
_WORSE = 1.2
# Where inputs were known, errors went to those that matter little: the sum is larger.
_WORSE_INFORMED = 10.0
_ROUNDING = 1e-6


class Difference(NamedTuple):
    """Rows of a matrix that are not the source's, and their SQNR beside what quantizing gives."""

    matrix: int
    start: int
    stop: int
    found: float
    expected: float


def compare(path: Path, files: list[Path], against: Path) -> Iterator[str]:
    """Yields what differs between the files at ``path`` and the source, a line each."""
    with ExitStack() as stack:
        packed: dict[str, StoredPacked] = {}
        plain: dict[str, TensorFile] = {}
        for file_path in files:
            # What cannot be read was a problem already.
            with suppress(FormatError, UnsupportedFormatError, OSError):
                file = stack.enter_context(open_file(file_path))
                described, _ = binq_metadata.described(file.metadata, file_path)
                parts = binq_metadata.stored_names(described)
                plain.update(dict.fromkeys((name for name in file if name not in parts), file))
                for name, d in described.items():
                    with suppress(FormatError, UnsupportedFormatError):
                        packed[name] = StoredPacked(file, name, d)
        source = stack.enter_context(Checkpoint(against))
        settings = _settings(path)
        method, family = (_text(settings, key) for key in ("method", "family"))
        tied, corrected = settings.get("tied"), settings.get("corrected") or {}
        informed = bool(settings.get("importance") or settings.get("calibration"))
        unseen = dict.fromkeys((*packed, *plain))
        for tensor in logical_tensors(source, family):
            twin = tied.get(tensor.name) if isinstance(tied, dict) else None
            name = twin if isinstance(twin, str) else tensor.name
            if name in packed:
                unseen.pop(name, None)
                yield from _compare_packed(source, tensor, packed[name], method, informed)
                continue
            copies = tensor.copies if tensor.copyable else {tensor.name: name}
            for there, here in copies.items():
                here = here if twin is None else name
                if here in plain:
                    unseen.pop(here, None)
                    values = here not in corrected
                    yield from _compare_kept(source, tensor, there, here, plain[here], values)
                else:
                    yield f"{shown(here)}: in {against}, missing here"
        for name in unseen:
            yield f"{shown(name)}: not in {against}"


def _settings(path: Path) -> dict[str, Any]:
    """Returns what a folder's configuration says of its conversion."""
    with suppress(FormatError, UnsupportedFormatError, OSError), Checkpoint(path) as made:
        settings = made.config.get("quantization_config")
        return settings if isinstance(settings, dict) else {}
    return {}


def _text(settings: dict[str, Any], key: str) -> str | None:
    value = settings.get(key)
    return value if isinstance(value, str) else None


def _compare_kept(
    source: Checkpoint,
    tensor: LogicalTensor,
    there: str,
    name: str,
    file: TensorFile,
    values: bool = True,
) -> Iterator[str]:
    """Kept tensors have the type, the shape and the bytes that they had, or are rounded right.

    values: whether the bytes are compared; a bias that was corrected has others.
    """
    here = file.info(name)
    label = name if name in tensor.copies.values() else tensor.name
    if tensor.copyable:
        info = source.info(there)
        dtype, shape = info.dtype, info.shape
    else:
        dtypes = (tensor.dtype,) if tensor.dtype in FLOATS else ("F16", "BF16")
        dtype, shape = here.dtype if here.dtype in dtypes else dtypes[0], tensor.shape
    if (here.dtype, here.shape) != (dtype, shape):
        found = f"{numpy_dtype(here.dtype)} {here.shape}"
        yield f"{label}: {found}, in {source.path} {numpy_dtype(dtype)} {shape}"
        return
    if not values:
        return
    if tensor.copyable:
        pieces = _bytes(source, there, here.nbytes)
    else:
        pieces = _rounded(source, tensor, dtype)
    start = 0
    for wanted in pieces:
        if not np.array_equal(file.read_bytes(name, start, start + wanted.size), wanted):
            yield f"{label}: differs from {source.path}"
            return
        start += wanted.size


def _bytes(source: Checkpoint, name: str, nbytes: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, nbytes, COPY_BYTES):
        yield source.read_bytes(name, start, min(start + COPY_BYTES, nbytes))


def _rounded(source: Checkpoint, tensor: LogicalTensor, dtype: str) -> Iterator[NDArray[np.uint8]]:
    """Yields the bytes of values of which the output does not have the type."""
    for values in tensor.read_all(source, BLOCK_BYTES):
        yield as_bytes(np.ascontiguousarray(round_to(values, numpy_dtype(dtype))))


def _compare_packed(
    source: Checkpoint,
    tensor: LogicalTensor,
    stored: StoredPacked,
    method: str | None,
    informed: bool,
) -> Iterator[str]:
    """Each block of rows has the bytes that quantizing gives, or an error no larger."""
    d = stored.description
    if d.shape != tensor.shape:
        tensor = tensor.as_matrices()
    if d.shape != tensor.shape:
        yield f"{shown(tensor.name)}: shape {d.shape}, in the source {tensor.shape}"
        return
    if 0 in d.shape:
        return
    exact = tensor.exact_format(source)
    if exact is not None:
        exact = replace(exact, packing=exact.packing.fitted(d.shape[-1]))
    if exact is not None and exact.packing != d.packing:
        exact = None
    methods = _methods(stored, method)
    worse = _WORSE_INFORMED if informed else _WORSE

    def look(matrix: int, start: int, stop: int) -> list[Difference]:
        block = stored.read_rows(matrix, start, stop)
        if exact is not None:
            return _compare_exact(source, tensor, exact, block, (matrix, start, stop))
        values = with_zeros(tensor.read_values(source, matrix, start, stop))
        return [
            Difference(matrix, start + row, start + row + 1, *decibels)
            for row, *decibels in _compare_block(values, block, methods, worse)
        ]

    places = (
        (matrix, *rows) for matrix in range(tensor.matrices) for rows in tensor.blocks(BLOCK_BYTES)
    )
    looks = (partial(look, *place) for place in places)
    wrong = [place for found in done_ahead(looks) for place in found]
    if wrong:
        first = wrong[0]
        where = f"row {first.start}"
        if first.stop - first.start > 1:
            where = f"rows {first.start} to {first.stop}"
        if len(d.shape) > 2:
            where += f" of matrix {first.matrix}"
        more = f", and {len(wrong) - 1} other places" if len(wrong) > 1 else ""
        yield (
            f"{shown(tensor.name)}: not the source's weights: {where}: SQNR {first.found:.1f} dB, "
            f"quantizing the source gives {first.expected:.1f} dB{more}"
        )


def _methods(stored: StoredPacked, method: str | None) -> list[str]:
    """Returns the methods by which a tensor may have been quantized, the likeliest first."""
    packing = stored.description.packing
    names = [*packing.kind.methods]
    if method in METHODS and not METHODS[method].uses_statistics:
        with suppress(ValueError):
            get_method(method, packing)
            names.insert(0, method)
    return list(dict.fromkeys(names))


def _compare_block(
    values: NDArray[Any], block: Packed, methods: list[str], times: float
) -> Iterator[tuple[int, float, float]]:
    """Yields the rows of a block that are worse than any method makes them, with their SQNR."""
    task = Task(check_weights(values), block.packing, block.scales.dtype)
    allowed = np.zeros(len(values))
    for name in methods:
        expected, _ = quantize_task(task, get_method(name, block.packing))
        if expected.same_as(block):
            return
        allowed = np.maximum(allowed, _row_noise(values, expected))
    with np.errstate(over="ignore", invalid="ignore"):
        signal = (values.astype(np.float64) ** 2).sum(axis=1)
        noise = _row_noise(values, block)
        # NaN is worse than anything.
        worse = ~(noise <= times * allowed + _ROUNDING * signal)
    for row in np.flatnonzero(worse).tolist():
        yield row, _decibels(signal[row], noise[row]), _decibels(signal[row], allowed[row])


def _row_noise(values: NDArray[Any], packed: Packed) -> NDArray[np.float64]:
    """Returns the squared error of each row."""
    with np.errstate(over="ignore", invalid="ignore"):
        errors = values.astype(np.float64) - QuantizedArray._of(packed).dequantize()
        noise: NDArray[np.float64] = (errors**2).sum(axis=1)
    return noise


def _compare_exact(
    source: Checkpoint,
    tensor: LogicalTensor,
    exact: Exact,
    block: Packed,
    place: tuple[int, int, int],
) -> list[Difference]:
    """What is low-bit in the source is exactly the same here."""
    wanted = tensor.exact_rows(source, exact, *place)
    found = QuantizedArray._of(block)
    if wanted._data.same_as(block) or np.array_equal(wanted.dequantize(), found.dequantize()):
        return []
    signal, noise = tile_errors(wanted.dequantize(), block)[:, :2].sum(axis=0).tolist()
    return [Difference(*place, _decibels(signal, noise), inf)]


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return inf
    return 10 * log10(signal / noise) if signal > 0 else -inf
