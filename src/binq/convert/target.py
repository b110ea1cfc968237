"""A plan's formats and groups for a target of bits or bytes."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from binq.convert.budget import Option, choose, options_of
from binq.convert.evidence import Evidence, Knowledge
from binq.convert.item import Item, Settings
from binq.convert.rules import NATIVE
from binq.files.checkpoint import Checkpoint
from binq.models.tensor import LogicalTensor


def budgeted(
    source: Checkpoint, items: tuple[Item, ...], ruled: Collection[str], settings: Settings
) -> tuple[Item, ...]:
    """Returns the items, those that no rule decides with packings that meet the target together.

    ruled: names of the tensors that rules decide.

    Raises ValueError for a target that nothing meets, with the least that can be.
    """
    if settings.target_bpw is None and settings.target_bytes is None:
        return items
    default = settings.default
    free = {
        id(item)
        for item in items
        if item.choice is not None
        and item.exact is None
        and item.choice.packing == default.packing.fitted(item.tensor.shape[-1])
        and item.tensor.name not in ruled
    }
    name = "target_bpw" if settings.target_bytes is None else "target_bytes"
    target = settings.target_bpw if settings.target_bytes is None else settings.target_bytes
    assert target is not None
    if not free:
        raise ValueError(f"{name} must be None where no tensor is free to choose from")
    file = settings.calibration or settings.importance
    knowledge = None if file is None else Knowledge(file)
    chosen = [item for item in items if id(item) in free]
    options = [_options(source, item.tensor, knowledge) for item in chosen]
    fixed = [item for item in items if id(item) not in free]
    if settings.target_bytes is None:
        # Of all that is packed: what is kept has the size that it has.
        packed = [item for item in fixed if not item.kept]
        size = sum(item.tensor.size for item in (*chosen, *packed))
        bits, total = 8.0 / size, target * size / 8
    else:
        packed, bits, total = fixed, 1.0, target
    others = sum(item.bytes_after(source) for item in packed)
    least = others + sum(min(option.nbytes for option in each) for each in options)
    if total < least:
        raise ValueError(f"{name} must be at least {least * bits:.6g} here, got {target}")
    found = dict(zip(map(id, chosen), choose(options, int(total) - others), strict=True))
    result = []
    for item in items:
        if id(item) in free:
            assert item.choice is not None
            packing, method = found[id(item)].packing, item.choice.method
            if method in NATIVE and method not in packing.kind.methods:
                method = packing.kind.methods[0]
            item = replace(item, choice=replace(item.choice, packing=packing, method=method))
        result.append(item)
    return tuple(result)


def _options(
    source: Checkpoint, tensor: LogicalTensor, knowledge: Knowledge | None
) -> list[Option]:
    """Returns how a tensor may be packed, its errors weighed where its inputs are known."""
    importance = None
    place = None if knowledge is None else knowledge.find(tensor)
    if knowledge is not None and place is not None:
        evidence = Evidence(knowledge.file, *place)
        importance = knowledge.importance(evidence, 0, tensor.shape[-1])

    def read(matrix: int, start: int, stop: int) -> Any:
        return tensor.read_values(source, matrix, start, stop)

    return options_of(tensor.shape, read, importance)
