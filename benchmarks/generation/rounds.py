"""What the rounds of a contestant say together, and those of two that took turns.

A row holds the seconds of each round: of its prompt, and of the token in its middle. Its numbers
are the medians of rounds; a ratio is the median of the ratios of single rounds, in which a slow
minute of the machine was both contestants'. Nothing is chosen by hand: rounds are added, or all of
them are made anew.
"""

from statistics import median
from typing import Any

Row = dict[str, Any]
KINDS = ("prompt", "decode")


def together(rounds: list[list[float]], prompt: int) -> Row:
    """Returns the numbers of rounds, each the seconds of a prompt and of the tokens after it."""
    row = {
        "prompt_rounds": [round(seconds[0] / prompt, 7) for seconds in rounds],
        "decode_rounds": [round(median(seconds[1:]), 7) for seconds in rounds],
        "prompt_best": round(prompt / min(seconds[0] for seconds in rounds), 2),
        "decode_best": round(1 / min(min(seconds[1:]) for seconds in rounds), 2),
    }
    return row | _medians(row)


def added(before: Row, after: Row) -> Row:
    """Returns a row of two runs; the later one where the former has no rounds of that version."""
    if before.get("version") != after.get("version") or "decode_rounds" not in before:
        return after
    if "decode_rounds" not in after:
        return before
    row: Row = {}
    for kind in KINDS:
        row[f"{kind}_rounds"] = before[f"{kind}_rounds"] + after[f"{kind}_rounds"]
        row[f"{kind}_best"] = max(before[f"{kind}_best"], after[f"{kind}_best"])
    return after | row | _medians(row)


def ratio(own: Row, rival: Row, kind: str) -> str:
    """Returns by what own is faster: of rounds, and of the best of each in brackets."""
    best = own[f"{kind}_best"] / rival[f"{kind}_best"]
    mine, theirs = (row.get(f"{kind}_rounds", []) for row in (own, rival))
    if mine and len(mine) == len(theirs):
        typical = median(b / a for a, b in zip(mine, theirs, strict=True))
    else:
        typical = own[kind] / rival[kind]
    return f"{typical:.2f} ({best:.2f})"


def _medians(row: Row) -> Row:
    return {kind: round(1 / median(row[f"{kind}_rounds"]), 2) for kind in KINDS}
