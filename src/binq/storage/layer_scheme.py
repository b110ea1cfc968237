"""What schemes have in common that pack linear layers, one matrix each, and nothing else."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, ClassVar

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.storage.base import Storage
from binq.storage.coded_rows import SUFFIX, is_embedding
from binq.storage.scheme import Collect, Scheme


class LayerScheme(Scheme):
    """A scheme that refuses weights with a reason, and whose settings name what is not packed.

    - title: its name in messages
    - reader: the function that reads it
    """

    title: ClassVar[str]
    reader: ClassVar[Collect]

    def collect(
        self, source: Checkpoint, settings: Mapping[str, Any], names: Set[str]
    ) -> dict[str, Storage]:
        return type(self).reader(source, settings, names)

    @abstractmethod
    def why_not(self, name: str, weights: QuantizedArray) -> str:
        """Returns what it is that the scheme cannot hold of these weights, "" where it can."""

    def check(self, name: str, weights: QuantizedArray) -> None:
        why = self.why_not(name, weights)
        if why:
            raise UnsupportedFormatError(f"{name}: {self.title} cannot hold {why}")

    @abstractmethod
    def settings_beside(
        self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the settings of packed weights beside matrices that are not packed."""

    def settings(self, weights: Mapping[str, QuantizedArray]) -> dict[str, Any]:
        return self.settings_beside(weights, ())

    def config(self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]) -> dict[str, Any]:
        return {"quantization_config": self.settings_beside(weights, kept)}


def kept_modules(kept: Iterable[str]) -> set[str]:
    """Returns the modules that are not packed and might be taken for packed ones."""
    return {n.removesuffix(SUFFIX) for n in kept if n.endswith(SUFFIX) and not is_embedding(n)}
