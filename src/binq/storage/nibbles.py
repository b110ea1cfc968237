"""The stored nibbles of formats with uneven levels: places in their tables of levels."""

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.formats import get_format
from binq.formats.layout import TILE_ROWS
from binq.formats.scales import E8M0, fits_scale, stored_scales
from binq.storage.base import to_float32
from binq.storage.groups import smaller_group, spread

MXFP4 = "mxfp4"
MXFP4_GROUP = 32


def stored_nibbles(weights: QuantizedArray) -> NDArray[np.uint8]:
    """Returns the nibble of each weight, ``(..., out_features, in_features)``.

    - weights: of a format whose codes are whole nibbles (docs/formats.md), such as mxfp4
    """
    packed = weights._data.packed
    halves = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    *lead, tiles, eights, _, _ = halves.shape
    rows = np.moveaxis(halves, -2, -3).reshape(*lead, tiles * TILE_ROWS, eights * 8)
    return np.ascontiguousarray(rows[..., : weights.shape[-2], : weights.shape[-1]])


def mxfp4_scales(name: str, weights: QuantizedArray) -> NDArray[np.uint8]:
    """Returns the scales of mxfp4 weights as OCP's specification has them: bytes, for 32 weights.

    Raises UnsupportedFormatError, naming the weights, for scales that are not powers of two and for
    rows that are not whole groups.
    """
    columns, bias = weights.shape[-1], get_format(MXFP4).bias
    scales = to_float32(weights.group_scales())
    if smaller_group(weights.group_size, columns, (MXFP4_GROUP,)) is None or 0 in weights.shape:
        raise UnsupportedFormatError(f"{name}: rows of {columns} are not whole groups of 32")
    if not fits_scale(scales, E8M0, bias):
        raise UnsupportedFormatError(f"{name}: scales that are not powers of two")
    powers = stored_scales(scales, E8M0, bias)
    return np.ascontiguousarray(spread(powers, weights.group_size, columns, MXFP4_GROUP))
