"""What a conversion did, tensor by tensor: a table, JSON, pictures."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from binq.convert.doubts import doubts, growth
from binq.convert.quality import Quality
from binq.convert.spent import spent
from binq.convert.tables import align, readable, shown
from binq.convert.tensor_report import TensorReport
from binq.models.family import UNKNOWN

# Where a conversion leaves its report in the folder that it makes.
REPORT = "binq-report.json"


@dataclass
class Report:
    """All tensors of a conversion, and its totals.

    ``print(report)`` shows a table, ``report.to_json()`` gives one document, ``report.plot(path)``
    draws it. ``bytes_done`` are the bytes of the source that this run worked off: less than all
    where it went on with another's work. ``warnings`` is what to look at; the table ends with it.
    """

    source: str
    target: str
    tensors: list[TensorReport] = field(default_factory=list)
    seconds: float = 0.0
    dry_run: bool = False
    peak_bytes: int = 0
    bytes_done: int = 0
    notes: list[str] = field(default_factory=list)
    plain: bool = False  # plain weights are what was asked for: larger than the source

    @property
    def bytes_before(self) -> int:
        """Returns the bytes of all tensors of the source."""
        return sum(t.bytes_before for t in self.tensors)

    @property
    def bytes_after(self) -> int:
        """Returns the bytes of all tensors of the output."""
        return sum(t.bytes_after for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Returns the bits of a weight over the whole output."""
        size = sum(prod(t.shape) for t in self.tensors)
        return 8 * self.bytes_after / size if size else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Returns the bytes of the source that this run worked off in a second."""
        return self.bytes_done / self.seconds if self.seconds else 0.0

    @property
    def unknown(self) -> list[TensorReport]:
        """Returns the matrices that were kept because the family is not known to have them."""
        return [t for t in self.tensors if t.reason == UNKNOWN and len(t.shape) > 1]

    @property
    def unknown_text(self) -> str:
        """Returns a sentence about them for people."""
        size = readable(sum(t.bytes_before for t in self.unknown))
        kept = f"{len(self.unknown)} matrices ({size}) were kept as they are, the first"
        if len(self.unknown) == 1:
            kept = f"1 matrix ({size}) was kept as it is,"
        return f"{kept} {self.unknown[0].name!r}: {UNKNOWN}; a rule can say what becomes of it"

    @property
    def warnings(self) -> list[str]:
        """Returns what a user should look at, a sentence each."""
        unknown = [self.unknown_text] if self.unknown else []
        grown = [] if self.plain else growth(self.tensors)
        return [*self.notes, *unknown, *doubts(self.tensors), *grown]

    def to_json(self) -> str:
        """Returns one JSON document: totals and every tensor."""
        document = {
            "source": self.source,
            "target": self.target,
            "dry_run": self.dry_run,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": self.bits_per_weight,
            "bytes_done": self.bytes_done,
            "peak_bytes": self.peak_bytes,
            "seconds": self.seconds,
            "bytes_per_second": self.bytes_per_second,
            "warnings": self.warnings,
            "sqnr": self.quality.to_dict(),
            "tensors": [
                asdict(t) | {"bits_per_weight": t.bits_per_weight, "kept": t.kept}
                for t in self.tensors
            ],
        }
        return json.dumps(_finite(document), indent=1)

    @property
    def quality(self) -> Quality:
        """Returns how near the packed weights are to what they were."""
        return Quality(self.tensors)

    def to_saved(self) -> str:
        """Returns the JSON document that lies in DST: nothing that differs from run to run."""
        document = {
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": self.bits_per_weight,
            "sqnr": self.quality.to_dict(),
            "warnings": self.warnings,
            "tensors": [_saved(t) for t in self.tensors],
        }
        return json.dumps(_finite(document), indent=1) + "\n"

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [("tensor", "shape", "format", "bits", "after", "SQNR dB")]
        for t in self.tensors:
            rows.append(
                (
                    shown(t.name),
                    "x".join(map(str, t.shape)) or "scalar",
                    t.format,
                    f"{t.bits_per_weight:.3f}",
                    readable(t.bytes_after),
                    "" if t.sqnr_db is None else f"{t.sqnr_db:.2f}",
                )
            )
        total = (
            f"{len(self.tensors)} tensors: {readable(self.bytes_before)} -> "
            f"{readable(self.bytes_after)}, {self.bits_per_weight:.3f} bits a weight"
        )
        if self.dry_run:
            total += f"; about {readable(self.peak_bytes)} of memory; nothing was written"
        else:
            total += f", {self.seconds:.1f} s"
            if self.bytes_done:
                total += f", {readable(int(self.bytes_per_second))} a second"
        why = Counter(shown(t.reason) for t in self.tensors if t.reason)
        reasons = [f"{count} of them: {reason}" for reason, count in why.most_common()]
        found = [*reasons, *spent(self.tensors), *self.quality.lines(), total, *self.warnings]
        lines = [align(rows, {3, 4, 5}), *found]
        return "\n".join(lines)

    def plot(self, path: str | Path) -> None:
        """Draws size by part of the model, error by layer and the spread of errors to a file.

        Where formats were chosen for a size, also the bits of each layer.

        Needs matplotlib (the extra ``binq[plot]``).
        """
        from binq.convert.plot import draw

        title = (
            f"{Path(self.source).name}: {readable(self.bytes_before)} to "
            f"{readable(self.bytes_after)}, {self.bits_per_weight:.2f} bits a weight"
        )
        draw(title, self.tensors, Path(path))


def _saved(t: TensorReport) -> dict[str, Any]:
    entry = asdict(t) | {"kept": t.kept, "exact": t.sqnr_db == math.inf}
    del entry["seconds"]
    return entry


def _finite(value: Any) -> Any:
    """Returns the value with infinities as null: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
