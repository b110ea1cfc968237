"""The geometry of a packed matrix: tiles of 32 rows, groups along a row, and what both imply.

Every format shares it. docs/formats.md states the same rules for readers of the files.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_ROWS = 32
GROUP_SIZES = (32, 64, 128, 256)
# group_size=None has one scale a row; the kernels then still cut the row in groups of this size,
# for the scales of the activations.
ROW_KERNEL_GROUP = 128


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one matrix of weights and everything that follows from it.

    ``group_size`` is 32, 64, 128, 256, or None for one scale a row. The arguments are trusted:
    binq's callers check them first.
    """

    out_features: int
    in_features: int
    group_size: int | None

    @property
    def tiles(self) -> int:
        """Returns how many blocks of 32 rows hold the matrix."""
        return -(-self.out_features // TILE_ROWS)

    @property
    def kernel_group(self) -> int:
        """Returns the group that the kernels work in: group_size, or 128 where that is None."""
        return self.group_size or ROW_KERNEL_GROUP

    @property
    def groups(self) -> int:
        """Returns how many kernel groups cover a row."""
        return -(-self.in_features // self.kernel_group)

    @property
    def padded_in(self) -> int:
        """Returns the length of a stored row: in_features rounded up to whole groups."""
        return self.groups * self.kernel_group

    @property
    def scale_groups(self) -> int:
        """Returns how many scales a row has: one a group, or one in all for group_size=None."""
        return 1 if self.group_size is None else self.groups

    @property
    def scales_shape(self) -> tuple[int, int, int]:
        """Returns the shape of the stored scales."""
        return (self.tiles, self.scale_groups, TILE_ROWS)


def tile_rows(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Returns per-row values ``(..., out_features, n)`` in tiles, ``(..., tiles, n, 32)``.

    The rows that fill the last tile are zero.
    """
    *lead, rows, n = values.shape
    padded = np.zeros((*lead, geometry.tiles * TILE_ROWS, n), values.dtype)
    padded[..., :rows, :] = values
    tiles = padded.reshape(*lead, geometry.tiles, TILE_ROWS, n)
    return np.ascontiguousarray(tiles.swapaxes(-1, -2))


def untile_rows(tiled: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Returns tiles ``(..., tiles, n, 32)`` as per-row values ``(..., out_features, n)``."""
    *lead, tiles, n, _ = tiled.shape
    rows = tiled.swapaxes(-1, -2).reshape(*lead, tiles * TILE_ROWS, n)
    return rows[..., : geometry.out_features, :]
