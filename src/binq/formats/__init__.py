"""The formats: what each is, and how its codes and scales lie in memory."""

from binq.formats.base import Format
from binq.formats.binary import BINARY
from binq.formats.int4 import INT4
from binq.formats.layout import (
    GROUP_SIZES,
    TILE_ROWS,
    Geometry,
    take_rows,
    tile_rows,
    untile_rows,
)
from binq.formats.ternary import TERNARY

FORMATS: dict[str, Format] = {f.name: f for f in (BINARY, TERNARY, INT4)}


def get_format(name: object) -> Format:
    """Returns the format of that name.

    Raises ValueError that lists the valid names; TypeError if ``name`` is not a string.
    """
    if isinstance(name, str) and name in FORMATS:
        return FORMATS[name]
    names = ", ".join(repr(known) for known in FORMATS)
    kind = ValueError if isinstance(name, str) else TypeError
    raise kind(f"format must be one of {names}, got {name!r}")


__all__ = [
    "BINARY",
    "FORMATS",
    "GROUP_SIZES",
    "INT4",
    "TERNARY",
    "TILE_ROWS",
    "Format",
    "Geometry",
    "get_format",
    "take_rows",
    "tile_rows",
    "untile_rows",
]
