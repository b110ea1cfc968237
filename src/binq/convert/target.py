"""A plan's formats and groups for a target of bits or bytes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.convert.budget import Option, Trial, choose, guess, method_for, options_of
from binq.convert.evidence import Evidence, Knowledge
from binq.convert.informed import biases_of, corrects
from binq.convert.item import Item, Settings
from binq.convert.rules import NATIVE
from binq.files.checkpoint import Checkpoint
from binq.methods import METHODS, Gptq
from binq.methods.quantize import get_method

TRIED_DAMPING = 0.05


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
    biases = biases_of(items)
    options = weighed([_trial(source, item, knowledge, biases) for item in chosen])
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
            option, method = found[id(item)], item.choice.method
            packing = option.packing
            if isinstance(method, str) and method in NATIVE:
                method = str(method_for(METHODS[method], packing))
            choice = replace(item.choice, packing=packing, method=method)
            item = replace(item, choice=choice, option=option)
        result.append(item)
    return tuple(result)


def _trial(
    source: Checkpoint, item: Item, knowledge: Knowledge | None, biases: Mapping[str, Item]
) -> Trial:
    """Returns how a tensor is tried: by its method, with what is known of its inputs."""
    tensor, columns = item.tensor, item.tensor.shape[-1]
    assert item.choice is not None
    method = get_method(item.choice.method, item.choice.packing)
    if isinstance(method, Gptq) and method.damping is None:
        # One for all formats: the moments are factored once.
        method = Gptq(method.sweeps, TRIED_DAMPING)

    def read(matrix: int, start: int, stop: int) -> Any:
        return tensor.read_values(source, matrix, start, stop)

    place = None if knowledge is None else knowledge.find(tensor)
    if knowledge is None or place is None:
        # A layer of which nothing is known is quantized without; or refused, later.
        method = METHODS["mse"] if method.uses_statistics else method
        return Trial(tensor.shape, read, method, name=tensor.name)
    evidence = Evidence(knowledge.file, *place)
    sensitivity = knowledge.sensitivity(evidence)
    if method.uses_statistics:
        moments = knowledge.moments(evidence, columns)
        centred = corrects(biases, item)
        return Trial(tensor.shape, read, method, None, moments, centred, sensitivity, tensor.name)

    def importance(matrix: int) -> NDArray[np.float32]:
        return knowledge.importance(evidence, matrix, columns)

    return Trial(tensor.shape, read, method, importance, sensitivity=sensitivity, name=tensor.name)


def weighed(trials: Sequence[Trial]) -> list[list[Option]]:
    """Returns the options of each tensor, all on one scale.

    Where only some tensors' sensitivity is known, what the others are guessed to cost is multiplied
    by what the known ones cost beside their guesses, on the whole.
    """
    options = [options_of(trial) for trial in trials]
    known = [trial.sensitivity for trial in trials if trial.sensitivity is not None]
    if not known:
        return options
    guessed = sum(
        guess(trial.name, trial.sensitivity / each[0].weight)
        for each, trial in zip(options, trials, strict=True)
        if trial.sensitivity and each[0].weight
    )
    mean = sum(known) / guessed if guessed else 1.0
    return [
        [replace(o, weight=o.weight * mean) for o in each] if trial.sensitivity is None else each
        for each, trial in zip(options, trials, strict=True)
    ]
