"""The target mlx: a folder whose experts are stacks, as the models of mlx-lm have them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.joining import stack
from binq.convert.plain import PlainTensor
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.errors import UnsupportedFormatError
from binq.export.folder import FolderTarget
from binq.export.target import Model
from binq.files.dtypes import numpy_dtype
from binq.models.family import text_config

_EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight")
# Experts that Hugging Face's class has in one tensor with gate and up, by model_type: where mlx-lm
# has them, and whether their rows are interleaved or one half below the other.
_FUSED = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)(_bias)?")
_HALVES, _TURNS = "halves", "turns"
_FUSING = {
    "gemma4": ("switch_glu.", _HALVES),
    "gemma4_text": ("switch_glu.", _HALVES),
    "llama4": ("", _HALVES),
    "llama4_text": ("", _HALVES),
    "gpt_oss": ("", _TURNS),
}
_PARTS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


class Mlx(FolderTarget):
    """MLX's folder, whose experts are stacks of gate, up and down.

    Those that stand alone in Hugging Face's model become ``switch_mlp``, those of one tensor are
    taken apart where it is known how mlx-lm does it.
    """

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
    tensors: list[PlainTensor] = []
    kind = text_config(model.config).get("model_type")
    fusing = _FUSING.get(kind) if isinstance(kind, str) else None
    packed = any(_FUSED.fullmatch(t.name) and t.packed is not None for t in model.tensors)
    for tensor in model.tensors:
        found = _EXPERT.fullmatch(tensor.name)
        if found is None:
            apart = fusing is not None and packed and _FUSED.fullmatch(tensor.name)
            tensors += _apart(tensor, apart, *fusing) if apart and fusing else [tensor]
            continue
        name = f"{found[1]}.switch_mlp.{_PARTS.get(found[3], found[3])}.weight"
        stacks.setdefault(name, {})[int(found[2])] = tensor
    tensors += [_joined(name, experts) for name, experts in stacks.items()]
    return replace(model, tensors=tuple(sorted(tensors, key=lambda tensor: tensor.name)))


def _apart(
    tensor: PlainTensor, found: re.Match[str], prefix: str, order: str
) -> Iterator[PlainTensor]:
    """Yields the stacks of gate and up, or that of down, or their biases."""
    bias = found[3] is not None
    if tensor.packed is None and not bias:
        raise UnsupportedFormatError(
            f"{tensor.name} is not packed and other experts are: MLX has all of them in one form"
        )
    ending = "bias" if bias else "weight"
    if found[2] == "down_proj":
        yield _rows(tensor, f"{found[1]}.{prefix}down_proj.{ending}", slice(None))
        return
    axis = -1 if bias or tensor.form == "transposed" else -2
    half = tensor.shape[axis] // 2
    first, second = slice(0, half), slice(half, None)
    if order == _TURNS:
        first, second = slice(0, None, 2), slice(1, None, 2)
    yield _rows(tensor, f"{found[1]}.{prefix}gate_proj.{ending}", first)
    yield _rows(tensor, f"{found[1]}.{prefix}up_proj.{ending}", second)


def _rows(tensor: PlainTensor, name: str, rows: slice) -> PlainTensor:
    """Returns some rows of each matrix of packed weights, or some numbers of each bias."""
    packed = tensor.packed
    if packed is None:

        def values() -> Iterator[NDArray[Any]]:
            blocks = [block.reshape(-1) for block in tensor.read()]
            whole = np.concatenate(blocks).view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)
            yield np.ascontiguousarray(whole[..., rows])

        shape = (*tensor.shape[:-1], len(range(*rows.indices(tensor.shape[-1]))))
        return replace(tensor, name=name, shape=shape, read=values)
    whole = packed()

    def part() -> QuantizedArray:
        found = packed()[:, rows]
        assert isinstance(found, QuantizedArray)
        return found

    shape = (whole.shape[0], len(range(*rows.indices(whole.shape[1]))), whole.shape[2])
    before = tensor.bytes_before * shape[1] // whole.shape[1]
    return replace(tensor, name=name, shape=shape, packed=part, form="", bytes_before=before)


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
