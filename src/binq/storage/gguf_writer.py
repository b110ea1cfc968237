"""Writes packed weights as the blocks of GGUF files, without loss.

A block has its own float16 scale, so that a type holds weights whose groups are whole blocks, and
whose codes are among its integers. Source: the structs of ggml; the layouts are described with the
functions that read them, in :mod:`binq.storage.gguf_types`.
"""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.checks import check_choice
from binq.errors import UnsupportedFormatError
from binq.formats import get_format
from binq.formats.scales import E8M0, fits_scale, stored_scales
from binq.formats.zeros import CODE, OFFSET
from binq.storage.base import fits_float16, to_float32
from binq.storage.bits import pack
from binq.storage.gguf_types import CODED, VALUED, Bytes
from binq.storage.groups import spread
from binq.storage.nibbles import stored_nibbles

_ROWS = 1 << 10  # written at a time
_NO_NUMBER = "a code or a scale is not one of its numbers"


class _Rows(NamedTuple):
    """Weights ``scales * codes + offsets`` of some rows, the latter two a group."""

    codes: NDArray[np.int16]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32] | None
    group: int


def write_blocks(weights: QuantizedArray, type: str | None = None) -> tuple[str, Bytes]:
    """Returns a GGUF type and its blocks of weights, uint8 (..., out_features, bytes of a row).

    - weights: a QuantizedArray; each format has a type that holds it where a row is whole blocks
    - type: ``"Q1_0"``, ``"TQ2_0"``, ``"Q2_0"``, ``"MXFP4"``, ``"IQ4_NL"``, ``"Q4_0"``, ``"Q4_1"``,
      ``"Q5_0"`` or ``"Q8_0"``; None: the smallest that holds the weights exactly

    Raises UnsupportedFormatError, with the reason for each type, where none holds them; TypeError
    for what is not a QuantizedArray, ValueError for a type that is not written.

    >>> import numpy as np, binq
    >>> from binq.storage.gguf_writer import write_blocks
    >>> q = binq.quantize(np.ones((4, 256), np.float32), "binary")
    >>> kind, blocks = write_blocks(q)
    >>> kind, blocks.shape
    ('Q1_0', (4, 36))
    """
    if not isinstance(weights, QuantizedArray):
        raise TypeError(f"weights must be a QuantizedArray, got {weights!r:.40}")
    names = list(_TYPES) if type is None else [check_choice("type", type, _TYPES)]
    reasons = []
    for name in names:
        reason = _why_not(weights, _TYPES[name])
        if not reason:
            blocks = _write(weights, _TYPES[name])
            if blocks is not None:
                return name, blocks
            reason = _NO_NUMBER
        reasons.append(f"{name}: {reason}")
    raise _refused(weights, reasons)


def exact_type(weights: QuantizedArray) -> str:
    """Returns the smallest GGUF type that holds weights exactly, without writing them.

    Raises UnsupportedFormatError, with the reason for each type, where none does.
    """
    reasons = []
    for name, kind in _TYPES.items():
        reason = _why_not(weights, kind)
        if not reason:
            if all(_holds(part, kind) for part in _parts(weights)):
                return name
            reason = _NO_NUMBER
        reasons.append(f"{name}: {reason}")
    raise _refused(weights, reasons)


def _parts(weights: QuantizedArray) -> Iterator[QuantizedArray]:
    """Yields some rows of one matrix after the other."""
    for index in np.ndindex(weights.shape[:-2]):
        one = weights[index] if index else weights
        for start in range(0, weights.shape[-2], _ROWS):
            yield one[start : start + _ROWS]


def _holds(part: QuantizedArray, kind: "_Type") -> bool:
    """Returns whether every number of some rows is one of a type's."""
    if kind.minimum:
        return _blocks(part, kind) is not None
    if kind.levels:
        return _scale_bytes(to_float32(part.group_scales()), kind) is not None
    rows = _rows(part)
    fitted = _fitted(rows.codes, rows.scales, kind)
    if fitted is None or not fits_float16(rows.scales):
        return False
    return kind is not _TYPES["Q1_0"] or bool(fitted[0].all())


def _refused(weights: QuantizedArray, reasons: list[str]) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"no GGUF type holds {weights._data.packing} weights of shape {weights.shape} exactly: "
        + "; ".join(reasons)
    )


class _Type(NamedTuple):
    """A type that is written: its block, its integers, and the function that packs them.

    A type with ``minimum`` has ``d * q + m``, any other ``d * q``. One with ``levels`` holds the
    format of that name alone, whose nibbles are its own.
    """

    weights: int
    nbytes: int
    low: int
    high: int
    write: Callable[[NDArray[Any]], Bytes]
    scale_first: bool = True
    minimum: bool = False
    levels: str = ""


def _why_not(weights: QuantizedArray, kind: _Type) -> str:
    """Returns why a type cannot hold weights, by their packing and shape, or ""."""
    packing, columns = weights._data.packing, weights.shape[-1]
    size = packing.group_size
    if packing.rotation is not None:
        return "it has no rotated basis"
    if columns % kind.weights or not columns:
        return f"rows of {columns} are not whole blocks of {kind.weights}"
    if size is not None and size % kind.weights and size < columns:
        return f"groups of {size} are not whole blocks of {kind.weights}"
    if kind.levels and packing.format != kind.levels:
        return f"its levels are those of {kind.levels}"
    if (packing.zero == OFFSET) != kind.minimum:
        return "it has no offset" if packing.zero == OFFSET else "the weights have no offset"
    return ""


def _write(weights: QuantizedArray, kind: _Type) -> Bytes | None:
    """Returns all blocks, None where a number of some block is not one of the type's."""
    rows, columns = weights.shape[-2:]
    row = columns // kind.weights * kind.nbytes
    out = np.empty((prod(weights.shape[:-2]), rows, row), np.uint8)
    done = out.reshape(-1, row)
    at = 0
    for part in _parts(weights):
        blocks = _blocks(part, kind)
        if blocks is None:
            return None
        done[at : at + len(part)] = blocks.reshape(len(part), row)
        at += len(part)
    return out.reshape(*weights.shape[:-1], row)


def _blocks(part: QuantizedArray, kind: _Type) -> Bytes | None:
    if kind.levels:
        return _leveled(part, kind)
    rows = _rows(part)
    codes, scales, offsets = rows.codes, rows.scales, rows.offsets
    if offsets is not None:
        # From the lowest code on, which becomes 0.
        low = min(0, int(codes.min(initial=0)))
        offsets = offsets + scales * np.float32(low)
        codes = codes - np.int16(low)
    fitted = _fitted(codes, scales, kind)
    if fitted is None or not fits_float16(scales):
        return None
    codes, scales = fitted
    if kind is _TYPES["Q1_0"] and not codes.all():
        return None
    count = part.shape[-1] // kind.weights
    # A group is one block or several.
    places = np.arange(count) * kind.weights // rows.group
    data = kind.write(codes.reshape(-1, kind.weights))
    half = _half_bytes(scales[:, places])
    if offsets is None:
        return np.concatenate([half, data] if kind.scale_first else [data, half], axis=1)
    if not fits_float16(offsets):
        return None
    blocks = np.concatenate([half, _half_bytes(offsets[:, places]), data], axis=1)
    values = VALUED["Q4_1"].values(blocks).reshape(part.shape)
    return blocks if np.array_equal(values, part.dequantize()) else None


def _leveled(part: QuantizedArray, kind: _Type) -> Bytes | None:
    """Returns blocks of nibbles as they are stored, None for scales that the type has not."""
    columns = part.shape[-1]
    scales = to_float32(part.group_scales())
    stored = _scale_bytes(spread(scales, part.group_size, columns, kind.weights), kind)
    if stored is None:
        return None
    nibbles = stored_nibbles(part).reshape(-1, kind.weights)
    return np.concatenate([stored, kind.write(nibbles)], axis=1)


def _scale_bytes(scales: NDArray[np.float32], kind: _Type) -> Bytes | None:
    if kind.levels != "mxfp4":
        return _half_bytes(scales) if fits_float16(scales) else None
    bias = get_format(kind.levels).bias
    if not fits_scale(scales, E8M0, bias):
        return None
    return stored_scales(scales, E8M0, bias).reshape(-1, 1)


def _fitted(
    codes: NDArray[np.int16], scales: NDArray[np.float32], kind: _Type
) -> tuple[NDArray[np.int16], NDArray[np.float32]] | None:
    """Returns codes that are integers of the type, negated with their scales where that helps."""
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if kind.low <= low and high <= kind.high:
        return codes, scales
    if kind.low <= -high and -low <= kind.high and not kind.minimum:
        return -codes, -scales
    return None


def _rows(part: QuantizedArray) -> _Rows:
    codes = part.codes().astype(np.int16)
    scales = to_float32(part.group_scales())
    zeros, columns = part.group_zero_points(), part.shape[-1]
    size = part.group_size or columns
    if zeros is None:
        return _Rows(codes, scales, None, size)
    if part._data.packing.zero == CODE:
        wide = np.repeat(zeros.astype(np.int16), size, axis=1)[:, :columns]
        return _Rows(codes - wide, scales, None, size)
    return _Rows(codes, scales, to_float32(zeros), size)


def _half_bytes(values: NDArray[np.float32]) -> Bytes:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _bits(codes: NDArray[np.int16]) -> Bytes:
    return np.packbits(codes > 0, axis=1, bitorder="little")


def _crumbs(codes: NDArray[np.int16]) -> Bytes:
    return pack((codes + 1).astype(np.uint8), 2).view(np.uint8)


def _strips(codes: NDArray[np.int16]) -> Bytes:
    """Two bits of weights k, k + 32, k + 64 and k + 96 of 128 in a byte."""
    parts = (codes + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    joined = parts[:, :, 0].copy()
    for place in range(1, 4):
        joined |= parts[:, :, place] << np.uint8(2 * place)
    return joined.reshape(-1, 64)


def _nibbles(codes: NDArray[Any]) -> Bytes:
    """Weights 0 to 15 in the low nibbles, 16 to 31 in the high ones."""
    small = codes.astype(np.uint8)
    low, high = small[:, :16], small[:, 16:]
    return (low & np.uint8(15)) | (high << np.uint8(4))


def _five(codes: NDArray[np.int16]) -> Bytes:
    small = codes + 16
    fifth = np.packbits(small > 15, axis=1, bitorder="little")
    return np.concatenate([fifth, _nibbles(small)], axis=1)


def _int8(codes: NDArray[np.int16]) -> Bytes:
    return codes.astype(np.int8).view(np.uint8)


def _of(name: str, write: Callable[[NDArray[np.int16]], Bytes]) -> _Type:
    kind = CODED[name]
    return _Type(kind.weights, kind.nbytes, kind.low, kind.high, write, kind.scale == 0)


# The smallest first.
_TYPES = {
    "Q1_0": _of("Q1_0", _bits),
    "TQ2_0": _of("TQ2_0", _strips)._replace(high=1),  # its fourth code is not meant to be used
    "Q2_0": _of("Q2_0", _crumbs),
    "MXFP4": _Type(32, 17, 0, 15, _nibbles, levels="mxfp4"),
    "IQ4_NL": _Type(32, 18, 0, 15, _nibbles, levels="iq4nl"),
    "Q4_0": _of("Q4_0", lambda codes: _nibbles(codes + 8)),
    "Q4_1": _Type(32, 20, 0, 15, _nibbles, minimum=True),
    "Q5_0": _of("Q5_0", _five),
    "Q8_0": _of("Q8_0", _int8),
}
