"""Rows of weights as they lie in a file: compiled code makes floats of them tile by tile.

A matrix of float32 never is in memory, where what wants it is compiled too: a tile of 32 rows is
made, quantized and measured while the cache holds it. What the kinds mean is said in numpy by
:mod:`binq.storage.small_floats` and :mod:`binq.storage.bits`.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq._memory import as_bytes
from binq.array.packing import Packing
from binq.formats import get_format
from binq.formats.zeros import CODE, NONE

StoredRows = _core.StoredRows
_DTYPES: dict[int, Any] = {
    _core.INPUT_TYPES[name]: np.dtype(dtype)
    for name, dtype in (
        ("float32", np.float32),
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("float64", np.float64),
    )
}


def float_rows(values: NDArray[Any]) -> StoredRows:
    """Returns rows of floats, ``(rows, columns)``, as they are."""
    return _rows("floats", values, *values.shape)


def float_columns(values: NDArray[Any]) -> StoredRows:
    """Returns the columns of floats, ``(columns, rows)``, as rows."""
    return _rows("columns", values, *values.shape[::-1])


def scaled_rows(
    codes: NDArray[np.uint8], kind: str, columns: int, scales: NDArray[np.float32], group: int
) -> StoredRows:
    """Returns rows of small floats, as a safetensors file names them: ``value * scale``.

    - codes: bytes ``(rows, columns)``; of ``"F4"`` two weights a byte, ``(rows, columns / 2)``
    - scales: ``(rows, groups)``, one for ``group`` columns side by side
    """
    return _rows(kind, codes, len(codes), columns, scales=scales, group=group)


def code_rows(
    codes: NDArray[Any],
    scales: NDArray[np.float32],
    zeros: NDArray[Any] | None,
    group: int | None,
    order: NDArray[Any] | None = None,
) -> StoredRows:
    """Returns rows of whole codes, int8 or uint8: ``(code - zero) * scale``.

    order: the group of each column, where a group is not ``group`` columns side by side.
    """
    parts = _parts(codes.shape[-1], scales, zeros, group, order)
    return _rows("codes", codes, *codes.shape, signed=codes.dtype == np.int8, **parts)


def word_columns(
    words: NDArray[Any],
    bits: int,
    scales: NDArray[np.float32],
    zeros: NDArray[Any] | None,
    group: int | None,
    order: NDArray[Any] | None = None,
) -> StoredRows:
    """Returns the columns of 32-bit words as rows of their codes of 2, 4 or 8 bits.

    The rest is as in :func:`code_rows`. A row has 32 / bits codes for each of ``len(words)``.
    """
    columns = len(words) * 32 // bits
    parts = _parts(columns, scales, zeros, group, order)
    return _rows("words", words, words.shape[1], columns, bits=bits, **parts)


def values_of(rows: StoredRows, step: int = 1) -> NDArray[Any]:
    """Returns every step-th row as floats: in the type in which they are stored, else float32."""
    count, columns = rows.shape
    out = np.empty((-(-count // step), columns), _DTYPES[rows.input_type])
    rows.decode(step, out.reshape(-1).view(np.uint8))
    return out


def pack_codes(packing: Packing, rows: StoredRows) -> NDArray[np.uint8] | None:
    """Returns the packed form of whole codes, None where one is none of the format's.

    Those of symmetric weights are the codes less their zeros.
    """
    codes = packing.kind.codes(packing.zero)
    return _packed(packing, packing.format, packing.zero, codes[0], codes[-1], rows)


def pack_nibbles(packing: Packing, rows: StoredRows) -> NDArray[np.uint8]:
    """Returns the packed form of codes from 0 to 15 that lie as the format stores them."""
    packed = _packed(packing, "int4", CODE, 0, 15, rows)
    assert packed is not None
    return packed


def _packed(
    packing: Packing, format: str, zero: str, low: int, high: int, rows: StoredRows
) -> NDArray[np.uint8] | None:
    part = packing.parts(rows.shape)[0]
    packed = np.empty(part.shape, part.dtype)  # every byte is written
    fits = rows.pack(
        get_format(format).spec.number,
        _core.ZEROS[zero],
        low,
        high,
        zero == NONE,
        packed.reshape(-1),
        packing.geometry(rows.shape).kernel_group,
    )
    return packed if fits else None


def _parts(
    columns: int,
    scales: NDArray[np.float32],
    zeros: NDArray[Any] | None,
    group: int | None,
    order: NDArray[Any] | None,
) -> dict[str, Any]:
    """Returns what code_rows and word_columns have in common."""
    one = group is None or scales.shape[-1] == 1
    return {
        "scales": scales,
        "zeros": None if zeros is None else np.ascontiguousarray(zeros, np.int16),
        "group": columns if one else group,
        "order": None if order is None else np.ascontiguousarray(order, np.int32),
    }


def _bytes_from(data: NDArray[Any]) -> NDArray[np.uint8]:
    """Returns the bytes from the first element of rows to the last, what lies between them too."""
    if data.flags.c_contiguous:
        return as_bytes(data)
    length = (len(data) - 1) * data.strides[0] + data.shape[1] * data.itemsize
    return np.lib.stride_tricks.as_strided(data.view(np.uint8), (length,), (1,), writeable=False)


def _rows(
    kind: str,
    data: NDArray[Any],
    rows: int,
    columns: int,
    *,
    scales: NDArray[np.float32] | None = None,
    zeros: NDArray[np.int16] | None = None,
    group: int = 1,
    order: NDArray[np.int32] | None = None,
    bits: int = 8,
    signed: bool = False,
) -> StoredRows:
    if data.strides[-1] != data.itemsize:
        data = np.ascontiguousarray(data)
    return StoredRows(
        _core.STORED_KINDS[kind],
        _bytes_from(data),
        data.strides[0],
        rows,
        columns,
        _core.INPUT_TYPES.get(data.dtype.name, _core.INPUT_TYPES["float32"]),
        None if scales is None else np.ascontiguousarray(scales, np.float32),
        zeros,
        order,
        group,
        bits,
        signed,
    )
