"""Writes packed weights as the inputs of ONNX Runtime's MatMulNBits, without loss.

``y = x @ w.T`` with ``w = scale * (code - zero)``: B is uint8 (N, blocks, bytes of a block), codes
least significant bit first along K; scales are (N, blocks), zero points packed like the codes of a
row of their own. Where there are none the zero is ``2**(bits - 1)``. A last block reaches behind K.
Source: the operator's description in ONNX Runtime (com.microsoft, version 1).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.packing import Packing
from binq.errors import UnsupportedFormatError
from binq.formats.zeros import NONE
from binq.storage.base import fits_float16
from binq.storage.coded_rows import BITS, coded_rows, why_not_coded

# Formats of 3 bits become codes of 4: these are the numbers of bits that ONNX Runtime has.
_STORED = {2: 2, 3: 4, 4: 4, 8: 8}
_BLOCKS = (32, 64, 128, 256)


@dataclass(frozen=True)
class NBits:
    """One matrix as MatMulNBits has it; rows are N, columns K."""

    rows: int
    columns: int
    bits: int
    block_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None

    @property
    def nbytes(self) -> int:
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros

    @property
    def in_float16(self) -> bool:
        """Returns whether float16 holds the scales exactly, as a graph of float16 needs them."""
        return fits_float16(self.scales)


def why_no_bits(weights: QuantizedArray) -> str:
    """Returns why MatMulNBits cannot hold a matrix, "" where it can."""
    if len(weights.shape) != 2:
        return "a stack of matrices, where the operator has one"
    if 0 in weights.shape:
        return "no weights at all"
    return why_no_packing(weights._data.packing)


def why_no_packing(packing: Packing) -> str:
    """Returns why MatMulNBits cannot hold weights that are packed so, "" where it can."""
    return why_not_coded(packing, tuple(_STORED))


def matmul_nbits(weights: QuantizedArray) -> NBits:
    """Returns the attributes and inputs of MatMulNBits that hold a matrix exactly.

    One scale a row becomes the same scale in blocks of 256 or fewer.

    Raises UnsupportedFormatError for levels that are no integers, offsets, and stacks.

    >>> import numpy as np, binq
    >>> from binq.storage.onnx_writer import matmul_nbits
    >>> made = matmul_nbits(binq.quantize(np.ones((16, 100)), "int4", group_size=32))
    >>> made.block_size, made.codes.shape, made.scales.shape
    (32, (16, 4, 16), (16, 4))
    """
    why = why_no_bits(weights)
    if why:
        raise UnsupportedFormatError(f"MatMulNBits cannot hold {why}")
    rows, columns = weights.shape
    bits = _STORED[BITS[weights.format]]
    enough = next((size for size in _BLOCKS if size >= columns), _BLOCKS[-1])
    size = min(weights.group_size or enough, enough)
    blocks = -(-columns // size)
    codes = np.empty((rows, blocks, size * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    zeros = np.empty((rows, -(-blocks * bits // 8)), np.uint8)
    for part in coded_rows(weights, bits, size):
        to = slice(part.start, part.stop)
        codes[to] = _packed(part.codes, bits, blocks * size).reshape(-1, *codes.shape[1:])
        scales[to] = part.scales
        zeros[to] = _packed(part.zeros, bits, zeros.shape[1] * 8 // bits)
    symmetric = weights._data.packing.zero == NONE
    return NBits(rows, columns, bits, size, codes, scales, None if symmetric else zeros)


def _packed(codes: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Returns the bytes of rows of codes, with zeros behind them up to a count."""
    each = 8 // bits
    whole = np.zeros((len(codes), count), np.uint8)
    whole[:, : codes.shape[1]] = codes
    lanes = whole.reshape(len(codes), -1, each)
    data = lanes[..., 0].copy()
    for lane in range(1, each):
        data |= lanes[..., lane] << np.uint8(lane * bits)
    return data
