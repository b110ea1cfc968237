"""What says where zero lies in a group: nothing, a code, or an offset in units of weights.

- ``"none"``: ``w = scale * level(code)``
- ``"code"``: ``w = scale * (code - zero_point)``, an integer a group, two to a byte; a byte each
  of codes of 8 bits, which alone have more than 16 codes
- ``"offset"``: ``w = scale * level(code) + offset``, a float a group, laid out as the scales are
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.layout import TILE_ROWS, Geometry, tile_rows, untile_rows

NONE = "none"
CODE = "code"
OFFSET = "offset"
_HALF = TILE_ROWS // 2


def zeros_shape(zero: str, geometry: Geometry, bits: int) -> tuple[int, ...]:
    """Returns the shape of the stored zero points or offsets of one matrix; bits: of codes."""
    if zero == OFFSET or bits == 8:
        return geometry.scales_shape
    return (geometry.tiles, geometry.scale_groups, _HALF)


def pack_zeros(zero: str, values: NDArray[Any], geometry: Geometry, bits: int) -> NDArray[Any]:
    """Returns zero points or offsets ``(..., out_features, scale_groups)`` as they are stored."""
    if zero == OFFSET:
        return tile_rows(values, geometry)
    tiled = tile_rows(values.astype(np.uint8), geometry)
    if bits == 8:
        return tiled
    packed: NDArray[np.uint8] = tiled[..., :_HALF] | tiled[..., _HALF:] << np.uint8(4)
    return packed


def unpack_zeros(zero: str, stored: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Returns stored zero points or offsets as ``(..., out_features, scale_groups)``."""
    if zero == OFFSET or stored.shape[-1] == TILE_ROWS:
        return untile_rows(stored, geometry)
    return untile_rows(np.concatenate((stored & 15, stored >> 4), axis=-1), geometry)
