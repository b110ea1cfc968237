"""Where a target of bits or bytes was spent: which formats, and what they are expected to cost."""

from collections import Counter
from collections.abc import Sequence
from math import prod

from binq.convert.tensor_report import TensorReport


def spent(tensors: Sequence[TensorReport]) -> list[str]:
    """Returns lines on the tensors whose format was chosen for a size; none where none was."""
    chosen = [t for t in tensors if t.expected_loss is not None]
    if not chosen:
        return []
    size = sum(prod(t.shape) for t in chosen)
    bits = 8 * sum(t.bytes_after for t in chosen) / size
    errors = {t.name: t.expected_error or 0.0 for t in chosen}
    worst = max(errors, key=lambda name: errors[name])
    kinds = Counter(t.format for t in chosen)
    return [
        f"chosen for a size: {len(chosen)} tensors in {bits:.3f} bits a weight",
        *(f"  {count} {kind}" for kind, count in kinds.most_common()),
        f"  expected error: {100 * sum(errors.values()) / len(errors):.2g}% of the power of what "
        f"they give, at most {100 * errors[worst]:.2g}%",
        f"  most: {worst}",
    ]
