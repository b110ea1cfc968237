"""What becomes of one tensor, and the settings that decide it."""

from dataclasses import dataclass, replace

from binq.convert.budget import Option
from binq.convert.evidence import Evidence, EvidenceFile
from binq.convert.rules import Choice
from binq.convert.tensor_report import TensorReport
from binq.files.checkpoint import Checkpoint
from binq.files.dtypes import BITS
from binq.files.metadata import Description
from binq.formats.scales import scale_dtype
from binq.models.tensor import LogicalTensor
from binq.storage.base import Exact

FLOATS = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class Settings:
    """All that decides the bytes of the output, besides the source."""

    default: Choice
    rules: tuple[str, ...] = ()
    embeddings: str | None = None
    lm_head: str | None = None
    max_shard_bytes: int = 5_000_000_000
    family: str | None = None
    importance: EvidenceFile | None = None
    calibration: EvidenceFile | None = None
    target_bpw: float | None = None
    target_bytes: int | None = None


@dataclass(frozen=True)
class Item:
    """One tensor and what becomes of it: quantized by ``choice``, packed as ``exact``, or kept.

    A kept one with ``tied`` has the bytes of the tensor of that name, and is not stored again.
    ``evidence`` says where the numbers of its inputs lie. To a kept bias with ``corrected`` is
    added what the packed weight of that name, the item before it, leaves over. ``option`` is what
    a target of bits or bytes chose it for.
    """

    tensor: LogicalTensor
    choice: Choice | None = None
    exact: Exact | None = None
    reason: str = ""
    tied: str = ""
    evidence: Evidence | None = None
    corrected: str = ""
    option: Option | None = None

    @property
    def kept(self) -> bool:
        return self.choice is None

    @property
    def description(self) -> Description:
        """Returns what the output says of a packed tensor."""
        assert self.choice is not None
        packing = self.choice.packing if self.exact is None else self.exact.packing
        return Description(packing, self.tensor.shape)

    @property
    def label(self) -> str:
        """Returns what a table shows: ``int4 g128``, ``binary g128 exact`` or ``BF16``.

        ``int4 g32 offset codes``: the source's codes with scales that were rounded.
        """
        if self.exact is not None:
            return f"{self.exact.packing} {'codes' if self.exact.rounded else 'exact'}"
        if self.tied:
            return "tied"
        return self.kept_dtype if self.choice is None else str(self.choice)

    @property
    def kept_dtype(self) -> str:
        """Returns the type in which a kept tensor is stored: its own, where the output has it.

        What only other files have becomes float16, unless writing it shows that bfloat16 is nearer.
        """
        return self.tensor.dtype if self.tensor.copyable or self.tensor.dtype in FLOATS else "F16"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Returns the names of the stored tensors of the output."""
        if not self.kept:
            return tuple(self.description.part_names(self.tensor.name))
        if self.tied:
            return ()
        return tuple(self.tensor.copies.values()) if self.tensor.copyable else (self.tensor.name,)

    def report(self, source: Checkpoint) -> TensorReport:
        """Returns what is known of it beforehand."""
        return TensorReport(
            self.tensor.name,
            self.tensor.shape,
            self.label,
            self.tensor.role,
            self.bytes_before(source),
            self.bytes_after(source),
            self.reason,
            expected_error=None if self.option is None else self.option.error,
            expected_loss=None if self.option is None else self.option.loss,
        )

    def bytes_before(self, source: Checkpoint) -> int:
        """Returns the bytes of the stored tensors."""
        return sum(source.info(name).nbytes for name in self.tensor.stored)

    def bytes_after(self, source: Checkpoint) -> int:
        """Returns the bytes in the output, scales as float16 where they are not known to differ."""
        if self.tied:
            return 0
        if self.kept:
            if self.tensor.copyable:
                return self.bytes_before(source)
            return self.tensor.size * BITS[self.kept_dtype] // 8
        packing = self.description.packing
        if self.exact is not None:
            return replace(self.exact, packing=packing).nbytes(self.tensor.shape)
        return packing.nbytes(self.tensor.shape, scale_dtype(packing.kind.scale_dtype))
