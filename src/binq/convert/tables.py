"""Tables and sizes as people read them."""

import math
from collections.abc import Sequence


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


def align(rows: list[Sequence[str]]) -> str:
    """Returns rows of cells as lines of aligned columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numbers = {3, 4, 5, 6}
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
