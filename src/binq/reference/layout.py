"""How codes, scales and zero points lie in memory and in files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.reference.formats import FORMATS
from binq.reference.scales import is_offset

TILE_ROWS = 32
_ROW_KERNEL_GROUP = 128


def kernel_group_size(group_size: int | None) -> int:
    """Returns the columns of a kernel group: group_size, or 128 where one scale serves a row."""
    return _ROW_KERNEL_GROUP if group_size is None else group_size


def count_groups(in_features: int, group_size: int | None) -> int:
    """Returns how many kernel groups cover a row, the last one perhaps in part."""
    return -(-in_features // kernel_group_size(group_size))


def count_scale_groups(in_features: int, group_size: int | None) -> int:
    """Returns how many scales a row has."""
    return 1 if group_size is None else count_groups(in_features, group_size)


def count_tiles(out_features: int) -> int:
    """Returns how many tiles of 32 rows hold the matrix, the last one perhaps in part."""
    return -(-out_features // TILE_ROWS)


def pack(
    codes: NDArray[Any], format: str, group_size: int | None, symmetric: bool = True
) -> NDArray[np.uint8]:
    """Returns codes ``(out_features, in_features)`` in their packed form; padding is zero bits.

    A code is stored as the index of its level, the smallest that has it. A packed array has tiles
    of 32 rows, and in a tile 8 columns side by side:

    - one plane ``(tiles, padded_in / 8, 32)``: bit i of a byte is column k + i
    - more planes ``(tiles, padded_in / 8, planes, 32)``: a plane for each bit of the index, the
      lowest first
    - nibbles ``(tiles, padded_in / 8, 32, 4)``: byte j has column k + j low and k + 4 + j high
    - bytes ``(tiles, padded_in / 4, 32, 4)``, 4 columns side by side: byte j has column k + j
    """
    row = FORMATS[format]
    stored = np.zeros(256, np.uint8)
    for index in reversed(range(len(row.levels))):
        stored[row.levels[index] - row.levels[0] + row.first(symmetric)] = index
    out_features, in_features = codes.shape
    groups = count_groups(in_features, group_size)
    tiles = count_tiles(out_features)
    blocks = groups * kernel_group_size(group_size) // 8

    def in_tiles(values: NDArray[Any]) -> NDArray[np.uint8]:
        """Returns values of the real weights as (tiles, blocks, 32, 8), zeros around them."""
        padded = np.zeros((tiles * TILE_ROWS, blocks * 8), np.uint8)
        padded[:out_features, :in_features] = values
        return padded.reshape(tiles, TILE_ROWS, blocks, 8).transpose(0, 2, 1, 3)

    indices = in_tiles(stored[codes.astype(np.int8).view(np.uint8)])
    if row.layout == "bytes":
        quads = indices.reshape(tiles, blocks, TILE_ROWS, 2, 4).transpose(0, 1, 3, 2, 4)
        return quads.reshape(tiles, blocks * 2, TILE_ROWS, 4)
    if row.layout == "nibbles":
        return indices[..., :4] | (indices[..., 4:] << np.uint8(4))
    bits = [indices >> np.uint8(plane) & 1 for plane in range(row.bits)]
    packed = [np.packbits(plane, axis=-1, bitorder="little")[..., 0] for plane in bits]
    return packed[0] if row.bits == 1 else np.stack(packed, axis=2)


def code_type(format: str, symmetric: bool) -> np.dtype[Any]:
    """Returns the type of codes: uint8 where they count from 0 to 255, else int8."""
    row = FORMATS[format]
    return np.dtype(np.uint8 if row.first(symmetric) + len(row.levels) > 128 else np.int8)


def unpack(
    packed: NDArray[np.uint8],
    format: str,
    out_features: int,
    in_features: int,
    symmetric: bool = True,
) -> NDArray[Any]:
    """Returns the codes ``(out_features, in_features)`` of a packed array.

    They are levels; where not symmetric, and more than two, they count from 0. int8, but uint8
    where they count to 255.
    """
    tiles, blocks = packed.shape[:2]
    row = FORMATS[format]
    levels = np.array(row.levels, np.int16) - np.int16(row.levels[0] - row.first(symmetric))
    levels = levels.astype(code_type(format, symmetric))
    if row.layout == "bytes":
        rows = levels[packed].transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, blocks * 4)
        return rows[:out_features, :in_features]
    if row.layout == "nibbles":
        in_tiles = levels[np.concatenate((packed & 15, packed >> 4), axis=-1)]
    else:
        planes = packed.reshape(tiles, blocks, row.bits, TILE_ROWS)
        bits = np.unpackbits(planes[..., np.newaxis], axis=-1, bitorder="little")
        weights = 1 << np.arange(row.bits).reshape(-1, 1, 1)
        in_tiles = levels[(bits * weights).sum(axis=2)]
    rows = in_tiles.transpose(0, 2, 1, 3).reshape(tiles * TILE_ROWS, blocks * 8)
    return rows[:out_features, :in_features]


def tile_scales(scales: NDArray[Any]) -> NDArray[Any]:
    """Returns scales ``(out_features, scale_groups)`` as stored: ``(tiles, scale_groups, 32)``."""
    out_features, scale_groups = scales.shape
    tiles = count_tiles(out_features)
    padded = np.zeros((tiles * TILE_ROWS, scale_groups), scales.dtype)
    padded[:out_features] = scales
    return padded.reshape(tiles, TILE_ROWS, scale_groups).transpose(0, 2, 1).copy()


def untile_scales(stored: NDArray[Any], out_features: int) -> NDArray[Any]:
    """Returns stored scales ``(tiles, scale_groups, 32)`` as ``(out_features, scale_groups)``."""
    tiles, scale_groups, _ = stored.shape
    rows = stored.transpose(0, 2, 1).reshape(tiles * TILE_ROWS, scale_groups)
    return rows[:out_features]


def pack_zero_points(zero_points: NDArray[Any], format: str = "int4") -> NDArray[Any]:
    """Returns zero points or offsets ``(out_features, scale_groups)`` as they are stored.

    Offsets, which are floats, lie as scales do, and so do the zero points of int8, bytes. int4 zero
    points (integers 0 to 15) are nibbles, ``(tiles, scale_groups, 16)``: byte r has row r low and
    row r + 16 high.
    """
    if is_offset(zero_points):
        return tile_scales(zero_points)
    tiled = tile_scales(zero_points.astype(np.uint8))
    if FORMATS[format].layout == "bytes":
        return tiled
    halves: NDArray[np.uint8] = tiled[..., :16] | (tiled[..., 16:] << np.uint8(4))
    return halves


def unpack_zero_points(stored: NDArray[Any], out_features: int) -> NDArray[Any]:
    """Returns stored zero points or offsets as ``(out_features, scale_groups)``."""
    if stored.dtype == np.uint8 and stored.shape[-1] < TILE_ROWS:
        stored = np.concatenate((stored & 15, stored >> 4), axis=-1)
    return untile_scales(stored, out_features)
