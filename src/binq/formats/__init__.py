"""The formats: what each is, and how its codes and scales lie in memory.

The table in ``_native/formats.h`` has a row for each; docs/formats.md describes the bytes.
"""

from binq import _core
from binq.formats.base import Format
from binq.formats.layout import (
    GROUP_SIZES,
    TILE_ROWS,
    Geometry,
    tile_rows,
    untile_rows,
)

FORMATS: dict[str, Format] = {spec.name: Format(spec) for spec in _core.FORMAT_SPECS}


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
    "FORMATS",
    "GROUP_SIZES",
    "TILE_ROWS",
    "Format",
    "Geometry",
    "get_format",
    "tile_rows",
    "untile_rows",
]
