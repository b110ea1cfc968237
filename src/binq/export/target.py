"""What a target of an export is, and what it gets: the tensors of a model, packed and plain."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from binq.array.array import QuantizedArray
from binq.convert.plain import PlainTensor
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.errors import UnsupportedFormatError
from binq.files.checkpoint import Checkpoint

_FORMS = {
    "transposed": "the model's own class stores it (in_features, out_features)",
    "flattened": "it is a convolution",
    "joined": "the model's own class has it in one tensor with others",
}
# Refused tensors that an error names; of more it says how many.
_NAMED = 8


@dataclass(frozen=True)
class Model:
    """What an export begins with.

    - source: the open checkpoint, for its path, the permissions of its files and what lies beside
    - config: ``config.json`` without a word of quantization, {} where there is none
    - tensors: all tensors by the names that the model's own class has; the packed ones have
      ``packed``
    - max_shard_bytes: where a new file of a folder begins
    - path: what OUT will be, by which files beside it are named
    - notes: what the user should know of the output; a target appends
    """

    source: Checkpoint
    config: Mapping[str, Any]
    tensors: tuple[PlainTensor, ...]
    max_shard_bytes: int
    path: Path
    notes: list[str] = field(default_factory=list)

    @cached_property
    def packed(self) -> "Weights":
        """Returns the packed weights by name, each mapped in memory when it is asked for."""
        return Weights({t.name: t for t in self.tensors if t.packed is not None})

    @property
    def kept(self) -> list[str]:
        """Returns the names of the matrices that are not packed."""
        return [t.name for t in self.tensors if t.packed is None and len(t.shape) > 1]

    def named(self, name: str) -> PlainTensor:
        """Returns the tensor of a name. Raises KeyError where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, PlainTensor]:
        return {tensor.name: tensor for tensor in self.tensors}


class Weights(Mapping[str, QuantizedArray]):
    """Packed weights by name, mapped when they are asked for."""

    def __init__(self, tensors: Mapping[str, PlainTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> QuantizedArray:
        packed = self._tensors[name].packed
        assert packed is not None
        return packed()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Target(ABC):
    """A library's form of a whole model: a folder, or one file.

    - name: what ``--to`` says
    - is_file: whether OUT is a file
    - suffix: how the name of such a file ends
    """

    name: ClassVar[str]
    is_file: ClassVar[bool] = False
    suffix: ClassVar[str] = ""

    @abstractmethod
    def check(self, model: Model) -> None:
        """Raises UnsupportedFormatError, with the reason, for a model that it cannot hold.

        Called before anything is written: what it lets pass, :meth:`write` must hold.
        """

    @abstractmethod
    def write(self, model: Model, place: Path, advance: Progress) -> list[TensorReport]:
        """Returns a report of each tensor, written to a folder that is empty or a file of none.

        The place is a temporary one, which gets its name when all is written. Memory is about that
        of one tensor. ``advance`` is called with ``bytes_before`` of each tensor that is done.
        """


def refuse(target: str, reasons: Mapping[str, str]) -> None:
    """Raises UnsupportedFormatError where there are reasons to refuse weights, by name."""
    if not reasons:
        return
    shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:_NAMED]]
    more = len(reasons) - len(shown)
    raise UnsupportedFormatError(
        f"{target} cannot hold {len(reasons)} of the packed weights: "
        + "; ".join(shown)
        + (f"; and {more} more" if more else "")
        + ". Nothing was written: quantize these to another format, or --rule 'NAME=keep'"
    )


def why_reshaped(tensor: PlainTensor) -> str:
    """Returns why a packed weight is not what its name stands for, "" where it is."""
    return _FORMS.get(tensor.form, "")
