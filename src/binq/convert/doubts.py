"""What a report's numbers give reason to doubt: sentences for its end."""

from collections.abc import Iterator, Sequence

from binq.convert.tables import readable, shown
from binq.convert.tensor_report import TensorReport

# A zero point that is off by one gives 0.32; weights of trained models stay below 0.1.
MOST_MEAN = 0.2
_NAMED = 5
_SLACK = 1.05  # what padding and scales add to weights that are kept exactly
_LOOKUPS = ("embedding", "head")


def doubts(tensors: Sequence[TensorReport]) -> Iterator[str]:
    """Yields a sentence for each way in which converted weights look wrong, with their names."""
    linears = [t for t in tensors if not t.kept and t.role not in _LOOKUPS]
    count = len(linears)
    zero = [t for t in linears if t.zero_matrices]
    if zero:
        where = [t.name if len(t.shape) < 3 else f"{t.name} ({t.zero_matrices})" for t in zero]
        yield f"{_of(zero, count, 'holds', 'hold')} only zeros: {_list(where)}"
    far = [t for t in linears if (t.mean or 0) > MOST_MEAN]
    if far:
        where = [f"{t.name} ({t.mean:.2f})" for t in far]
        yield (
            f"{_of(far, count, 'has', 'have')} a mean farther from 0 than {MOST_MEAN} of their "
            f"deviation, as weights that are read wrongly have: {_list(where)}"
        )
    broken = [t for t in linears if t.nonfinite]
    if broken:
        where = [f"{t.name} ({t.nonfinite})" for t in broken]
        yield f"{_of(broken, count, 'holds', 'hold')} inf or NaN, read as 0: {_list(where)}"


def growth(tensors: Sequence[TensorReport]) -> Iterator[str]:
    """Yields a sentence where the output is larger than the source, with what grew most."""
    before, after = (
        sum(getattr(t, f"bytes_{when}") for t in tensors) for when in ("before", "after")
    )
    if after <= _SLACK * before:
        return
    grown = sorted(tensors, key=lambda t: t.bytes_before - t.bytes_after)
    where = [
        f"{t.name} ({readable(t.bytes_before)} -> {readable(t.bytes_after)} as {t.format})"
        for t in grown
        if t.bytes_after > t.bytes_before
    ]
    hint = ""
    if any(t.kept and t.role in _LOOKUPS and t.bytes_after > t.bytes_before for t in grown):
        hint = "; embeddings= (--embeddings int4) packs embeddings and heads"
    yield (
        f"the output is {after / before:.2f} times as large as the source, because of "
        f"{_list(where)}{hint}"
    )


def _of(found: Sequence[TensorReport], count: int, one: str, many: str) -> str:
    return f"{len(found)} of {count} linears {one if len(found) == 1 else many}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, names[:_NAMED])) + more
