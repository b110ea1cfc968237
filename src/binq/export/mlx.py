"""The target mlx: a folder whose experts are stacks, as the models of mlx-lm have them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.joining import stack
from binq.convert.plain import PlainTensor
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.errors import UnsupportedFormatError
from binq.export.folder import FolderTarget
from binq.export.target import Model

_EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


class Mlx(FolderTarget):
    """MLX's folder: experts that stand alone in Hugging Face's model become ``switch_mlp``."""

    def __init__(self) -> None:
        super().__init__("mlx")

    def check(self, model: Model) -> None:
        super().check(_stacked(model))

    def write(self, model: Model, place: Path, advance: Progress) -> list[TensorReport]:
        return super().write(_stacked(model), place, advance)


def _stacked(model: Model) -> Model:
    """Returns a model with one tensor for each kind of the experts of a layer.

    Raises UnsupportedFormatError for experts that are no such stack.
    """
    stacks: dict[str, dict[int, PlainTensor]] = {}
    tensors = []
    for tensor in model.tensors:
        found = _EXPERT.fullmatch(tensor.name)
        if found is None:
            tensors.append(tensor)
            continue
        name = f"{found[1]}.switch_mlp.{_PARTS.get(found[3], found[3])}.weight"
        stacks.setdefault(name, {})[int(found[2])] = tensor
    tensors += [_joined(name, experts) for name, experts in stacks.items()]
    return replace(model, tensors=tuple(sorted(tensors, key=lambda tensor: tensor.name)))


def _joined(name: str, experts: Mapping[int, PlainTensor]) -> PlainTensor:
    parts = [experts[number] for number in sorted(experts)]
    kinds = {(part.was, part.dtype, part.shape) for part in parts}
    if sorted(experts) != list(range(len(parts))) or len(kinds) > 1:
        raise UnsupportedFormatError(
            f"MLX has the experts of a layer in one tensor, {name}: these are {sorted(experts)}, "
            f"of {', '.join(sorted(f'{was} {shape}' for was, _, shape in kinds))}"
        )

    def read() -> Iterator[NDArray[Any]]:
        for part in parts:
            yield from part.read()

    first = parts[0]
    return PlainTensor(
        name,
        first.dtype,
        (len(parts), *first.shape),
        read,
        sum(part.bytes_before for part in parts),
        first.was,
        None if first.packed is None else (lambda: _stack(parts)),
        first.form,
    )


def _stack(parts: Sequence[PlainTensor]) -> QuantizedArray:
    return stack([part.packed() for part in parts if part.packed is not None])
