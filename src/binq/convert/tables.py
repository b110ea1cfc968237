"""Tables and sizes as people read them."""

import math
from collections.abc import Sequence, Set

WIDTH = 80  # of a table
_LEAST_NAME = 16


def shown(text: str) -> str:
    """Returns text from a stranger's file as a terminal may show it: other characters escaped.

    >>> print(shown("a" + chr(27) + "[2K" + chr(10) + "b"))
    a\\x1b[2K\\nb
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def readable(nbytes: int) -> str:
    """Returns a size as people write it: ``1.50 GB``, powers of 1000."""
    if nbytes < 1000:
        return f"{nbytes} B"
    power = min(int(math.log10(nbytes)) // 3, 4)
    return f"{nbytes / 1000**power:.2f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def align(rows: Sequence[Sequence[str]], numbers: Set[int] = frozenset()) -> str:
    """Returns rows of cells as lines of aligned columns, 80 characters wide where that suffices.

    The first row is the head. The first column is the names: where they are too long, ``.weight``
    goes, then their beginnings.

    - numbers: the columns that end, not begin, under each other
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(left, _LEAST_NAME))
    lines = []
    for row in rows:
        name = row[0]
        if len(name) > widths[0]:
            name = name.removesuffix(".weight")
        if len(name) > widths[0]:
            name = "…" + name[1 - widths[0] :]
        cells = (
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip((name, *row[1:]), widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
