"""What a conversion did with one tensor."""

from dataclasses import dataclass
from math import prod

from binq.formats import FORMATS


@dataclass
class TensorReport:
    """One tensor: what it became and how near that is to what it was.

    ``sqnr_db`` is 10·log10(Σw² / Σ(w − ŵ)²); ``max_error`` the largest |w − ŵ|; ``clipped`` how
    many weights lie farther from their level than half a step (int4); ``zero_scales`` how many
    groups are all zero; ``zero_matrices`` how many matrices are; ``mean`` the mean of the weights
    in standard deviations (of a stack, that which is farthest from 0); ``nonfinite`` how many
    weights were inf or NaN and read as 0; ``signal`` is Σw². None where the tensor was kept, and
    where nothing was measured: in a dry run, and where ``resume`` found all done.

    ``expected_error`` is the part of the layer's output (or of its weights) that a trial of the
    format lost, ``expected_loss`` what that costs the model; None where no target of bits or bytes
    chose the format.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    role: str
    bytes_before: int
    bytes_after: int
    reason: str = ""
    sqnr_db: float | None = None
    max_error: float | None = None
    clipped: int | None = None
    zero_scales: int | None = None
    seconds: float = 0.0
    zero_matrices: int | None = None
    mean: float | None = None
    nonfinite: int | None = None
    signal: float | None = None
    expected_error: float | None = None
    expected_loss: float | None = None

    @property
    def kept(self) -> bool:
        """Returns whether the tensor is stored as it was: its format is not a packed one."""
        return self.format.partition(" ")[0] not in FORMATS

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_after / prod(self.shape) if prod(self.shape) else 0.0
