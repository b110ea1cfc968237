"""What will become of each tensor of a checkpoint, decided before a byte is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from binq.convert.informed import informed
from binq.convert.item import FLOATS, Item, Settings
from binq.convert.rules import KEEP, Choice, Rule, parse_option, parse_rules
from binq.convert.target import budgeted
from binq.convert.tied import find_copies
from binq.errors import FormatError
from binq.files.checkpoint import SHARED_BYTES, Checkpoint
from binq.files.dtypes import BITS
from binq.files.header import MAX_HEADER, check_name
from binq.files.writer import name_room
from binq.models import is_tied, logical_tensors, what_is_unknown
from binq.models.gguf_folder import folder_of
from binq.models.gguf_names import what_differs
from binq.models.tensor import LogicalTensor
from binq.runtime import get_num_threads
from binq.storage.base import Exact
from binq.storage.plain import Transposed

# Weights are read, quantized and written in blocks of rows of about this many bytes.
BLOCK_BYTES = 1 << 25
COPY_BYTES = 1 << 24  # Tensors that are kept, in pieces of this many, four at a time.
MOST_LANES = 8  # More threads would wait for memory, and take more of it.


def lanes() -> int:
    """Returns how many blocks of rows are read and packed side by side, each by one thread."""
    return min(get_num_threads(), MOST_LANES)


@dataclass(frozen=True)
class Plan:
    """Every tensor of a checkpoint, in the order and the shards of the output."""

    items: tuple[Item, ...]
    shards: tuple[tuple[Item, ...], ...]
    peak_bytes: int
    notes: tuple[str, ...] = ()

    def shard_name(self, number: int) -> str:
        """Returns the file name of shard ``number``, counted from 0."""
        return f"model-{number + 1:05d}-of-{len(self.shards):05d}.safetensors"


def make_plan(source: Checkpoint, settings: Settings) -> Plan:
    """Returns the plan for a checkpoint.

    Raises ValueError for a rule that matches no tensor or asks for what cannot be done, naming
    rule and tensor, and FormatError for two tensors of one name in the output.
    """
    rules = parse_rules(settings.rules, settings.default)
    # Only the roles that were asked for.
    options: dict[str, Choice | None] = {}
    if settings.embeddings is not None:
        choice = parse_option("embeddings", settings.embeddings, settings.default)
        options = {"embedding": choice, "head": choice}
    if settings.lm_head is not None:
        options["head"] = parse_option("lm_head", settings.lm_head, settings.default)
    tensors = logical_tensors(source, settings.family)
    for rule in rules:
        matched = [tensor for tensor in tensors if _matches(source, rule, tensor)]
        if not matched:
            raise ValueError(f"rule {rule.text!r} matches no tensor of {source.path}")
        if rule.choice is not None and not any(map(_is_weight, matched)):
            raise ValueError(
                f"rule {rule.text!r} matches no matrix of weights: {matched[0].name!r} is "
                f"{matched[0].dtype} of shape {matched[0].shape}"
            )
    items = tuple(_decide(source, tensor, rules, options, settings.default) for tensor in tensors)
    items = _tied(source, items)
    ruled = {t.name for t in tensors if any(_matches(source, rule, t) for rule in rules)}
    items = budgeted(source, items, ruled, settings)
    items, unseen = informed(items, settings)
    _check_names(source, items)
    shards: list[list[Item]] = [[]]
    filled = header = 0
    for item in items:
        nbytes, room = item.bytes_after(source), sum(map(name_room, item.output_names))
        full = filled + nbytes > settings.max_shard_bytes or header + room > MAX_HEADER // 2
        if shards[-1] and full and not item.corrected:
            shards.append([])
            filled = header = 0
        shards[-1].append(item)
        filled += nbytes
        header += room
    notes = (*_notes(source, tensors, settings), *unseen)
    return Plan(items, tuple(map(tuple, shards)), _peak_bytes(items, settings.default), notes)


def _tied(source: Checkpoint, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Returns the items, copies of tied weights for once: where the same becomes of both."""
    copies = find_copies(source, [item.tensor for item in items])
    named = {item.tensor.name: item for item in items}
    result = []
    for item in items:
        twin = named.get(copies.get(item.tensor.name, ""))
        if twin is not None and (item.choice, item.exact) == (twin.choice, twin.exact):
            name = twin.tensor.name
            item = Item(item.tensor, reason=f"tied: stored once, as {name}", tied=name)
        result.append(item)
    return tuple(result)


def _notes(
    source: Checkpoint, tensors: Sequence[LogicalTensor], settings: Settings
) -> Iterator[str]:
    """Yields what a user should know of a plan: an unknown model, an option that does nothing."""
    unknown = what_is_unknown(source, settings.family)
    if unknown:
        yield unknown
    if source.is_gguf and settings.family is None:
        differs = what_differs(source)
        if differs:
            yield differs
    yield from folder_of(source, settings.family).notes
    roles = {tensor.role for tensor in tensors}
    if settings.lm_head not in (None, KEEP) and "head" not in roles:
        what = f"lm_head={settings.lm_head!r} (--lm-head) did nothing: no tensor is an output head"
        if "embedding" in roles:
            tied = "ties it to" if is_tied(source) else "has none beside"
            what += f"; the model {tied} its embeddings, which embeddings= (--embeddings) packs"
        yield what
    if settings.embeddings not in (None, KEEP) and not roles & {"embedding", "head"}:
        yield (
            f"embeddings={settings.embeddings!r} (--embeddings) did nothing: no tensor is an "
            "embedding or an output head"
        )


def _check_names(source: Checkpoint, items: Sequence[Item]) -> None:
    """Raises FormatError for names that safetensors do not have, and where two would be one."""
    names: set[str] = set()
    for item in items:
        for name in item.output_names:
            try:
                check_name(name)
            except ValueError as error:
                raise FormatError(f"{source.path}: {error}") from None
            if name in names:
                raise FormatError(f"{source.path}: two tensors would be stored as {name!r}")
            names.add(name)


def _decide(
    source: Checkpoint,
    tensor: LogicalTensor,
    rules: Sequence[Rule],
    options: Mapping[str, Choice | None],
    default: Choice,
) -> Item:
    original = tensor
    rule = next((r for r in rules if _matches(source, r, tensor)), None)
    if rule is not None:
        choice, reason = rule.choice, f"rule {rule.text}"
    elif tensor.role in options:
        choice, reason = options[tensor.role], tensor.reason
    elif tensor.role in ("embedding", "head") and tensor.quantize:
        # Stored in one or two bits: packed without loss, or else not at all.
        return _item(tensor, default, tensor.exact_format(source))
    else:
        choice = default if tensor.quantize else None
        reason = tensor.reason
    if choice is None:
        return _keep(source, tensor, default, reason)
    if not _is_weight(tensor):
        return Item(tensor, reason="not a matrix of weights")
    tensor = tensor.as_matrices()
    # What already is low-bit stays exactly what it is, unless fewer bits are wanted.
    exact = tensor.exact_format(source) or tensor.near_format(source)
    if exact is not None and exact.packing.bits > choice.packing.bits:
        exact = None
    item = _item(tensor, choice, exact)
    if exact is not None and exact.rounded:
        item = replace(item, reason=f"the codes of {tensor.dtype}, their scales rounded")
    if tensor.has_floats and item.bytes_after(source) >= item.bytes_before(source):
        # Padding to tiles of 32 rows and whole groups outweighs the weights.
        size = 8 * item.bytes_after(source) / max(1, tensor.size)
        return Item(original, reason=f"{item.label} would take {size:.1f} bits a weight: kept")
    return item


def _keep(source: Checkpoint, tensor: LogicalTensor, default: Choice, reason: str) -> Item:
    """Returns a kept tensor; packed where its type is not one of the output's, and no bit is lost.

    Such a type is GGUF's Q4_0, which int4 holds.
    """
    if not tensor.copyable and len(tensor.shape) >= 2:
        exact = tensor.exact_format(source)
        if exact is not None:
            item = replace(_item(tensor, default, exact), reason=f"{reason}: packed exactly")
            if item.bytes_after(source) < Item(tensor).bytes_after(source):
                return item
    return Item(tensor, reason=reason)


def _item(tensor: LogicalTensor, choice: Choice, exact: Exact | None) -> Item:
    """Returns a packed tensor, in the smallest group that holds a row where one group does."""
    columns = tensor.shape[-1]
    fitted = choice.packing.fitted(columns)
    if fitted is not choice.packing:
        choice = replace(choice, packing=fitted)
    if exact is not None:
        exact = replace(exact, packing=exact.packing.fitted(columns))
    return Item(tensor, choice, exact)


def _matches(source: Checkpoint, rule: Rule, tensor: LogicalTensor) -> bool:
    """Returns whether a rule is meant for a tensor, in a GGUF file also by llama.cpp's name."""
    if rule.matches(tensor.name):
        return True
    return source.is_gguf and rule.matches(tensor.stored[0])


def _is_weight(tensor: LogicalTensor) -> bool:
    """Returns whether quantizing the tensor can make sense: a glob may match its bias as well."""
    if tensor.size == 0:
        return False
    if len(tensor.shape) < 2 or tensor.role in ("bias", "norm"):
        return False
    return not tensor.has_floats or tensor.dtype in FLOATS


def _shared_bytes(tensor: LogicalTensor) -> int:
    """Returns the bytes of a matrix that blocks of its columns share, 0 where none do."""
    if tensor.scheme != Transposed.scheme or tensor.dtype not in FLOATS:
        return 0
    nbytes = prod(tensor.shape[-2:]) * BITS[tensor.dtype] // 8
    return nbytes if nbytes <= SHARED_BYTES else 0


def _peak_bytes(items: Sequence[Item], default: Choice) -> int:
    """Returns a bound of the memory of a conversion, beside the interpreter's own.

    In each lane a block of rows at up to three times its float32 size, packed blocks that wait to
    be written, the scales of the largest tensor, and matrices that are read as a whole.
    """
    blocks = []
    scales = shared = 0
    for item in items:
        if item.kept:
            continue
        shared = max(shared, _shared_bytes(item.tensor))
        columns = max(1, item.tensor.shape[-1])
        cuts = item.tensor.blocks(BLOCK_BYTES)
        rows = max((stop - start for start, stop in cuts), default=0)
        blocks.append((rows * columns * 4, len(cuts) * item.tensor.matrices))
        group = (item.exact or default).packing.group_size or columns
        scales = max(scales, item.tensor.size // min(group, columns) * 4)
    blocks.sort(reverse=True)
    # Of matrices that are read whole there are two, and a third until its last block is packed.
    peak = 3 * shared + 2 * scales + 2 * max((nbytes for nbytes, _ in blocks), default=0)
    free = lanes()
    for nbytes, count in blocks:
        peak += 3 * nbytes * min(free, count)
        free -= min(free, count)
    calibrated = [i for i in items if i.evidence is not None and i.evidence.moments]
    if calibrated:
        # The moments in float64 and their factor, three of them; weights, errors, values, codes.
        inputs = max(item.tensor.shape[-1] for item in calibrated)
        peak = 3 * peak + 40 * inputs * inputs
    return max(peak, 4 * COPY_BYTES)
