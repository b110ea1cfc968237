"""How codes, scales and zero points lie in memory and in files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    A packed array has tiles of 32 rows, and in a tile 8 columns side by side:

    - binary ``(tiles, padded_in / 8, 32)``: bit i of a byte is column k + i; 1 is +1, 0 is −1
    - ternary ``(tiles, padded_in / 8, 2, 32)``: two binary planes, code >= 0 and code > 0
    - int2, as ternary: the planes are bit 0 and bit 1 of code + 2
    - int4 ``(tiles, padded_in / 8, 32, 4)``: byte j has column k + j low and k + 4 + j high, the
      nibble is the code, plus 8 where symmetric
    """
    out_features, in_features = codes.shape
    groups = count_groups(in_features, group_size)
    tiles = count_tiles(out_features)
    blocks = groups * kernel_group_size(group_size) // 8

    def in_tiles(values: NDArray[Any]) -> NDArray[np.uint8]:
        """Returns values of the real weights as (tiles, blocks, 32, 8), zeros around them."""
        padded = np.zeros((tiles * TILE_ROWS, blocks * 8), np.uint8)
        padded[:out_features, :in_features] = values
        return padded.reshape(tiles, TILE_ROWS, blocks, 8).transpose(0, 2, 1, 3)

    if format == "int4":
        nibbles = in_tiles(codes + 8 if symmetric else codes)
        return nibbles[..., :4] | (nibbles[..., 4:] << np.uint8(4))
    if format == "int2":
        planes = [((codes + 2) & 1) > 0, codes >= 0]
    else:
        planes = [codes > 0] if format == "binary" else [codes >= 0, codes > 0]
    packed = [np.packbits(in_tiles(p), axis=-1, bitorder="little")[..., 0] for p in planes]
    return packed[0] if format == "binary" else np.stack(packed, axis=2)


def unpack(
    packed: NDArray[np.uint8],
    format: str,
    out_features: int,
    in_features: int,
    symmetric: bool = True,
) -> NDArray[np.int8]:
    """Returns the codes ``(out_features, in_features)`` of a packed array.

    Binary −1 and +1; ternary −1, 0 and +1; int2 −2 to 1; int4 −8 to 7, or 0 to 15 where not
    symmetric.
    """
    tiles, blocks = packed.shape[:2]
    if format == "int4":
        nibbles = np.concatenate((packed & 15, packed >> 4), axis=-1).astype(np.int8)
        in_tiles = nibbles - np.int8(8) if symmetric else nibbles
    else:
        bits = np.unpackbits(packed[..., np.newaxis], axis=-1, bitorder="little")
        if format == "int2":
            in_tiles = (
                bits[:, :, 0].astype(np.int8) + 2 * bits[:, :, 1].astype(np.int8) - np.int8(2)
            )
        else:
            signs = 2 * bits.astype(np.int8) - np.int8(1)
            in_tiles = signs if format == "binary" else signs.sum(axis=2, dtype=np.int8) // 2
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


def pack_zero_points(zero_points: NDArray[Any], format: str) -> NDArray[Any]:
    """Returns zero points or offsets ``(out_features, scale_groups)`` as they are stored.

    Offsets, which are floats, lie as scales do. int4 zero points (integers 0 to 15) are nibbles,
    ``(tiles, scale_groups, 16)``: byte r has row r low and row r + 16 high.
    """
    if is_offset(zero_points):
        return tile_scales(zero_points)
    tiled = tile_scales(zero_points.astype(np.uint8))
    halves: NDArray[np.uint8] = tiled[..., :16] | (tiled[..., 16:] << np.uint8(4))
    return halves


def unpack_zero_points(stored: NDArray[Any], format: str, out_features: int) -> NDArray[Any]:
    """Returns stored zero points or offsets as ``(out_features, scale_groups)``."""
    if stored.dtype == np.uint8:
        stored = np.concatenate((stored & 15, stored >> 4), axis=-1)
    return untile_scales(stored, out_features)
