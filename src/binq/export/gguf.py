"""The target gguf: one file of a whole model, as llama.cpp reads it.

Names, the order of rows and metadata are llama.cpp's for the families that it and binq both know
as dense decoders; weights of no model keep their names.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.convert.ahead import done_ahead
from binq.convert.plain import PlainTensor
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.errors import FormatError, UnsupportedFormatError
from binq.export.gguf_metadata import metadata_of, rope_factors
from binq.export.gguf_vocabulary import vocabulary_of
from binq.export.target import Model, Target, refuse
from binq.files.dtypes import numpy_dtype
from binq.files.gguf_writer import Entry, GgufWriter, Value
from binq.models.gguf_names import (
    WRITTEN,
    is_rotary,
    rotary_rows,
    written_expert,
    written_name,
)
from binq.storage.base import to_float32
from binq.storage.gguf_writer import exact_type, write_blocks

# general.file_type of a file most of whose weights have a type.
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "IQ4_NL": 25, "BF16": 32,
    "TQ2_0": 37, "MXFP4": 38, "Q1_0": 40, "Q2_0": 41,
}  # fmt: skip
_FLOATS = ("F32", "F16", "BF16")
_NEEDED = ("token_embd.weight", "output_norm.weight")
# Keys of qwen3_moe that llama.cpp has no room for: what they are where unsaid, and must be.
_MOE_WANTED: dict[str, tuple[Any, ...]] = {
    "norm_topk_prob": (False, True),
    "decoder_sparse_step": (1, 1),
    "mlp_only_layers": (None, [], None),
}
_ROUTER = ".ffn_gate_inp."  # of which llama.cpp's own converter makes F32
# Buffers that old checkpoints hold and nobody reads.
_DROPPED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True)
class _Planned:
    """One tensor of the file: what it is made of, and the order of its rows where that changes.

    - parts: one tensor, or the experts that are stacked
    """

    entry: Entry
    parts: tuple[PlainTensor, ...]
    rows: NDArray[np.intp] | None = None


class Gguf(Target):
    """A GGUF file."""

    name = "gguf"
    is_file = True
    suffix = ".gguf"

    def check(self, model: Model) -> None:
        _plan(model, [])

    def write(self, model: Model, place: Path, advance: Progress) -> list[TensorReport]:
        notes: list[str] = []
        planned = _plan(model, notes)
        extra = _extra(model)
        metadata = _metadata(model, planned, notes)
        entries = [*(entry for entry, _ in extra), *(one.entry for one in planned)]
        writer = GgufWriter(place, metadata, entries)
        reports = []
        try:
            for _, values in extra:
                writer.begin()
                writer.write(values)
            made = done_ahead(partial(_made, one, part) for one in planned for part in one.parts)
            for one in planned:
                writer.begin()
                for part in one.parts:
                    for data in next(made):
                        writer.write(data)
                    advance(part.bytes_before)
                reports.append(_report(one))
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        model.notes.extend(notes)
        return reports


def _report(one: _Planned) -> TensorReport:
    entry, before = one.entry, sum(part.bytes_before for part in one.parts)
    name = one.parts[0].name if len(one.parts) == 1 else entry.name
    return TensorReport(name, entry.shape, entry.type, "other", before, entry.nbytes)


def _architecture(model: Model) -> str | None:
    """Returns llama.cpp's name of the model, None for weights of no model.

    Raises UnsupportedFormatError for a model whose names and values in GGUF are not known here.
    """
    kind = model.config.get("model_type")
    if kind is None:
        return None
    if not isinstance(kind, str) or kind not in WRITTEN:
        raise UnsupportedFormatError(
            f"{model.source.path}: how GGUF has a model of model_type {kind!r} is not known here, "
            f"only {', '.join(WRITTEN)}: llama.cpp's own converter reads --to compressed-tensors"
        )
    if kind == "qwen3_moe":
        for key, wanted in _MOE_WANTED.items():
            if model.config.get(key, wanted[0]) not in wanted[1:]:
                raise UnsupportedFormatError(
                    f"{model.source.path}: {key} of config.json is {model.config.get(key)!r}: "
                    f"llama.cpp takes {wanted[1]!r} for granted of qwen3_moe"
                )
    return WRITTEN[kind]


def _plan(model: Model, notes: list[str]) -> list[_Planned]:
    """Returns the tensors of the file in order, and adds notes on what was left out.

    Raises UnsupportedFormatError for weights that no type holds and names that are not known.
    """
    architecture = _architecture(model)
    planned, reasons, strange = [], {}, []
    stacks: dict[str, dict[int, PlainTensor]] = {}
    for tensor in model.tensors:
        if tensor.name.endswith(_DROPPED):
            continue
        name = tensor.name
        if architecture is not None:
            if expert := written_expert(name):
                stacks.setdefault(expert[0], {})[expert[1]] = tensor
                continue
            known = written_name(name)
            if known is None:
                strange.append(name)
                continue
            name = known
        try:
            planned.append(_planned(model, architecture, name, tensor))
        except UnsupportedFormatError as error:
            reasons[tensor.name] = str(error)
    for name, experts in stacks.items():
        try:
            planned.append(_stacked(model, name, experts))
        except UnsupportedFormatError as error:
            reasons[name] = str(error)
    refuse("GGUF", reasons)
    if strange:
        raise UnsupportedFormatError(
            f"{model.source.path}: {len(strange)} tensors have no name in a GGUF file of a "
            f"{architecture} model, the first {strange[0]!r}"
        )
    missing = [name for name in _NEEDED if name not in {one.entry.name for one in planned}]
    if architecture is None:
        notes.append(
            "the file is not of a known model: tensors keep their names, and there is no metadata"
        )
    elif missing:
        notes.append(f"there is no {' and no '.join(missing)}, which llama.cpp needs")
    return planned


def _planned(model: Model, architecture: str | None, name: str, tensor: PlainTensor) -> _Planned:
    rows = None
    if architecture is not None and is_rotary(architecture, name):
        heads, kv_heads = _heads(model)
        try:
            rows = rotary_rows(tensor.shape[0], heads if ".attn_q." in name else kv_heads)
        except ValueError as error:
            raise UnsupportedFormatError(str(error)) from None
    kind, shape = _type(tensor)
    if _ROUTER in name and tensor.packed is None:
        kind = "F32"
    return _Planned(Entry(name, kind, shape), (tensor,), rows)


def _stacked(model: Model, name: str, experts: Mapping[int, PlainTensor]) -> _Planned:
    """Returns the experts of a layer as one tensor."""
    count = model.config.get("num_local_experts") or model.config.get("num_experts")
    parts = tuple(experts[number] for number in sorted(experts))
    if sorted(experts) != list(range(len(parts))) or len(parts) != count:
        raise UnsupportedFormatError(
            f"there are the experts {sorted(experts)}, config.json has {count!r}"
        )
    found = {_type(part) for part in parts}
    if len(found) > 1:
        texts = sorted(f"{kind} {shape}" for kind, shape in found)
        raise UnsupportedFormatError(
            f"the experts of a layer are one tensor of one type, these are {', '.join(texts)}"
        )
    ((kind, shape),) = found
    return _Planned(Entry(name, kind, (len(parts), *shape)), parts)


def _type(tensor: PlainTensor) -> tuple[str, tuple[int, ...]]:
    """Returns the type and shape that a tensor gets; vectors that are not packed become F32."""
    if 0 in tensor.shape:
        raise UnsupportedFormatError("GGUF has no empty tensors")
    if tensor.packed is not None:
        if tensor.form == "joined":
            raise UnsupportedFormatError("it is one of several matrices of a tensor")
        weights = tensor.packed()
        return exact_type(weights), weights.shape
    if tensor.dtype not in _FLOATS:
        raise UnsupportedFormatError(f"llama.cpp has no tensors of type {tensor.dtype}")
    return (tensor.dtype if len(tensor.shape) > 1 else "F32"), tensor.shape


def _heads(model: Model) -> tuple[int, int]:
    """Returns the heads of q and of k. Raises FormatError where config.json does not say."""
    heads = model.config.get("num_attention_heads")
    kv_heads = model.config.get("num_key_value_heads") or heads
    if not (_is_count(heads) and _is_count(kv_heads)):
        raise FormatError(
            f"{model.source.path}: config.json has num_attention_heads {heads!r} and "
            f"num_key_value_heads {kv_heads!r}, by which the rows of q and k are ordered in GGUF: "
            "expected numbers above 0"
        )
    return heads, kv_heads


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 1 << 16


def _head_dim(model: Model) -> int | None:
    """Returns the size of a head: what config.json says, or the rows of q by the heads."""
    if _is_count(size := model.config.get("head_dim")):
        return size
    heads = model.config.get("num_attention_heads")
    for tensor in model.tensors:
        if tensor.name.endswith("self_attn.q_proj.weight") and _is_count(heads):
            return tensor.shape[0] // heads
    return None


def _extra(model: Model) -> list[tuple[Entry, NDArray[Any]]]:
    """Returns tensors that Hugging Face's model makes of its configuration."""
    if _architecture(model) != "llama":
        return []
    head_dim = _head_dim(model)
    factors = None if head_dim is None else rope_factors(model.config, head_dim)
    if factors is None:
        return []
    return [(Entry("rope_freqs.weight", "F32", factors.shape), factors)]


def _metadata(model: Model, planned: list[_Planned], notes: list[str]) -> dict[str, Value]:
    architecture = _architecture(model)
    sizes: Counter[str] = Counter()
    for one in planned:
        if len(one.entry.shape) > 1:
            sizes[one.entry.type] += one.entry.nbytes
    found: dict[str, Value] = {"general.type": "model", "general.name": model.source.path.stem}
    if sizes:
        found["general.file_type"] = _FILE_TYPES[sizes.most_common(1)[0][0]]
    found["general.quantization_version"] = 2
    if architecture is None:
        return found
    ours, said = metadata_of(model.config, architecture, _head_dim(model))
    notes += said
    found = {"general.architecture": architecture, **found, **ours}
    embedding = next((o.entry.shape for o in planned if o.entry.name == _NEEDED[0]), None)
    size = None if embedding is None else embedding[0]
    if size is not None:
        found[f"{architecture}.vocab_size"] = size
    path = model.source.path
    folder = path if path.is_dir() else path.parent
    vocabulary, said = vocabulary_of(folder, model.config, size)
    notes += said
    return found | vocabulary


def _made(one: _Planned, tensor: PlainTensor) -> Iterable[NDArray[Any]]:
    """Returns the bytes of a part in order: of packed weights made, others are read as needed."""
    data = _data(one, tensor)
    return data if tensor.packed is None else list(data)


def _data(one: _Planned, tensor: PlainTensor) -> Iterator[NDArray[Any]]:
    """Yields the bytes of a part in order."""
    if tensor.packed is None:
        yield from _plain(one, tensor)
        return
    weights = tensor.packed()
    if one.rows is not None:
        turned = weights[one.rows]
        assert isinstance(turned, QuantizedArray)
        weights = turned
    _, blocks = write_blocks(weights, one.entry.type)
    yield blocks


def _plain(one: _Planned, tensor: PlainTensor) -> Iterator[NDArray[Any]]:
    stored = numpy_dtype(tensor.dtype)
    blocks: Iterator[NDArray[Any]] = (
        block.view(stored) if block.dtype == np.uint8 else block for block in tensor.read()
    )
    if one.rows is not None:
        whole = np.concatenate([block.reshape(-1) for block in blocks])
        blocks = iter([whole.reshape(tensor.shape)[one.rows]])
    for block in blocks:
        yield to_float32(block) if one.entry.type == "F32" else np.ascontiguousarray(block)
