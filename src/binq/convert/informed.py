"""What is known of the inputs of each tensor of a plan, and what its method makes of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from binq.convert.evidence import Evidence, Knowledge, shown
from binq.convert.item import FLOATS, Item, Settings
from binq.methods.quantize import get_method


def informed(
    items: tuple[Item, ...], settings: Settings
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Returns the items with what is known of their inputs, and notes on what is not.

    The bias of a calibrated weight follows it, so that one shard holds both.
    Raises ValueError where a file knows nothing that is needed.
    """
    methods = {id(i): get_method(i.choice.method, i.choice.packing) for i in items if i.choice}
    working = [item for item in items if not item.kept and item.exact is None]
    needing = [item for item in working if methods[id(item)].uses_statistics]
    found: dict[int, Evidence] = {}
    notes: tuple[str, ...] = ()
    if settings.calibration is None:
        if needing:
            raise ValueError(
                f"calibration (--calibration) must be given for method "
                f"{str(methods[id(needing[0])])!r}"
            )
    elif not any(method.uses_statistics for method in methods.values()):
        raise ValueError(
            "calibration (--calibration) must be None where no method uses it; "
            "importance (--importance) takes the same file for method 'mse'"
        )
    else:
        knowledge = Knowledge(settings.calibration)
        found, lacking = _evidence_of(needing, knowledge)
        # Embeddings are looked up, not multiplied: there is nothing to see.
        lacking = [i for i in lacking if i.tensor.role not in ("embedding", "head")]
        if lacking:
            names = [item.tensor.name for item in lacking]
            raise ValueError(
                f"calibration: {settings.calibration.path} has no rows of {shown(names)}; "
                f"a rule such as {names[0]}=int4:mse does without them"
            )
        notes = tuple(_few_rows(knowledge, found, needing))
    if settings.importance is not None:
        able = [i for i in working if id(i) not in found and methods[id(i)].uses_importance]
        weighed, lacking = _evidence_of(able, Knowledge(settings.importance))
        if able and not weighed:
            raise ValueError(
                f"importance: {settings.importance.path} knows none of the {len(able)} tensors "
                f"that are quantized, such as {able[0].tensor.name!r}"
            )
        if lacking:
            names = [item.tensor.name for item in lacking]
            notes += (
                f"importance: {settings.importance.path} does not know {shown(names)}: all "
                "their inputs count alike",
            )
        found |= weighed
    biases = biases_of(items)
    result: list[Item] = []
    moved: set[str] = set()
    for item in items:
        evidence = found.get(id(item))
        if item.choice is not None and evidence is None and methods[id(item)].uses_statistics:
            item = replace(item, choice=replace(item.choice, method="mse"))
        if evidence is None or not methods[id(item)].uses_statistics:
            result.append(replace(item, evidence=evidence))
            continue
        bias = biases.get(item.tensor.name)
        fits = corrects(biases, item)
        result.append(replace(item, evidence=replace(evidence, moments=True, centred=fits)))
        if bias is not None and fits:
            result.append(replace(bias, corrected=item.tensor.name, reason="corrected"))
            moved.add(bias.tensor.name)
    return tuple(i for i in result if i.corrected or i.tensor.name not in moved), notes


def biases_of(items: Sequence[Item]) -> dict[str, Item]:
    """Returns the stored bias of each weight that has one, by the weight's name."""
    kept = {item.tensor.name: item for item in items if item.kept and not item.tied}
    names = {item.tensor.name: item.tensor.name.removesuffix(".weight") for item in items}
    found = {name: kept.get(stem + ".bias") for name, stem in names.items()}
    return {name: bias for name, bias in found.items() if bias is not None}


def corrects(biases: Mapping[str, Item], item: Item) -> bool:
    """Returns whether the bias of a weight takes over what the mean of its inputs costs."""
    bias = biases.get(item.tensor.name)
    return bias is not None and _is_bias(bias, item)


def _evidence_of(
    items: Sequence[Item], knowledge: Knowledge
) -> tuple[dict[int, Evidence], list[Item]]:
    """Returns where the numbers of each item (by id) lie, and the items of which there are none."""
    found, lacking = {}, []
    for item in items:
        place = knowledge.find(item.tensor)
        if place is None:
            lacking.append(item)
        else:
            found[id(item)] = Evidence(knowledge.file, *place)
    return found, lacking


def _few_rows(
    knowledge: Knowledge, found: Mapping[int, Evidence], items: Sequence[Item]
) -> Iterator[str]:
    """Yields a note where fewer rows were seen than a layer has inputs: on the whole, a guess."""
    few = []
    for item in items:
        evidence = found.get(id(item))
        rows = None if evidence is None else knowledge.rows(evidence)
        if rows is not None and rows < item.tensor.shape[-1]:
            few.append(f"{item.tensor.name} ({rows} rows, {item.tensor.shape[-1]} inputs)")
    if few:
        yield (
            f"calibration: {knowledge.file.path} saw fewer rows than there are inputs: "
            f"{shown(few)}; more text makes better weights"
        )


def _is_bias(bias: Item, weight: Item) -> bool:
    """Returns whether a tensor is the plain bias of a matrix of weights, stored with its name."""
    tensor = bias.tensor
    return (
        tensor.shape == weight.tensor.shape[-2:-1]
        and len(weight.tensor.shape) == 2
        and tensor.copyable
        and tensor.dtype in FLOATS
    )
