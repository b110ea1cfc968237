"""What a packed or quantized checkpoint is as plain tensors, as its model's own class expects them.

Names are Hugging Face's. Experts that are stored as (in_features, out_features) by that class are
turned back, convolutions get their axes back, and stacks of experts are taken apart, or put
together, as the class has them.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.convert.item import FLOATS
from binq.convert.plan import BLOCK_BYTES, COPY_BYTES
from binq.errors import FormatError, NonFiniteError
from binq.files import metadata as binq_metadata
from binq.files.checkpoint import Checkpoint
from binq.files.dtypes import numpy_dtype
from binq.files.safetensors import SafetensorsFile
from binq.files.stored import StoredPacked
from binq.formats.layout import TILE_ROWS
from binq.methods.quantize import is_finite
from binq.models import find_family, logical_tensors
from binq.models.kept import kept_tensors, settings_of
from binq.models.tensor import LogicalTensor
from binq.storage.base import to_float32

Blocks = Iterator[NDArray[Any]]

# Packed weights become floats in blocks of this many bytes: what is done to them next finds them in
# a cache, and in memory that the block before has left.
_CACHED = 1 << 22
DTYPES = {"bfloat16": "BF16", "float32": "F32"}
_NARROW = ("F16", "BF16")
# Scales of activations, which no plain model has.
_LEFTOVER = re.compile(
    r"\.(input|output|activation|k|v|q|kv)_scale(_inv)?$|\.(input|k|v)_zero_point$"
)
# Stacks of experts as MLX has them, and single experts.
_STACKED = re.compile(
    r"^(.+?\.)(?:experts\.)?switch_(?:mlp|glu)\.(gate|up|down)_proj(?:\.weight)?$"
)
_ALONE = re.compile(r"^(.+\.experts)\.(\d+)\.(gate_up|gate|up|down)_proj\.weight$")
# What Mixtral calls them.
_MIXTRAL, _MIXTRAL_LEAVES = "block_sparse_moe.", {"gate": "w1", "up": "w3", "down": "w2"}
# Families whose class has ``experts.gate_up_proj`` and ``experts.down_proj`` of all experts.
_FUSED = ("Gemma 4", "Llama 4")


@dataclass(frozen=True)
class PlainTensor:
    """One tensor of a plain checkpoint.

    - name, dtype, shape: what the file says of it; dtype is a safetensors type
    - read: gives its values in order, block by block, in that type
    - bytes_before: of the stored tensors that it is made of
    - was: what these are, for the report
    - packed: gives the same weights as binq packed them, None for what it did not pack
    - form: in what its axes differ from the packed ones: ``"transposed"``, ``"flattened"`` or
      ``"joined"``, of several matrices; ``""`` where they do not
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Blocks]
    bytes_before: int
    was: str
    packed: Callable[[], QuantizedArray] | None = None
    form: str = ""

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * numpy_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class _Weights:
    """Weights ``(..., out_features, in_features)`` that are read by rows of one matrix."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int, int], NDArray[Any]]
    step: int
    nbytes: int
    was: str
    packed: Callable[[], QuantizedArray] | None = None

    def blocks(self, matrix: int, dtype: np.dtype[Any]) -> Blocks:
        count = self.shape[-2]
        for start in range(0, count, self.step):
            stop = min(start + self.step, count)
            yield _rounded(self.rows(matrix, start, stop), dtype, self.name)

    def whole(self, matrix: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        out = np.empty(self.shape[-2:], dtype)
        at = 0
        for block in self.blocks(matrix, dtype):
            out[at : at + len(block)] = block
            at += len(block)
        return out


@dataclass(frozen=True)
class _Matrix:
    """One matrix of weights, which is that of an expert."""

    weights: _Weights
    number: int
    expert: int = -1

    def __post_init__(self) -> None:
        if self.expert < 0:
            object.__setattr__(self, "expert", self.number)

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes // prod(self.weights.shape[:-2])

    def packed(self) -> Callable[[], QuantizedArray] | None:
        """Returns what gives the matrix as it is packed, None where it is not."""
        whole = self.weights.packed
        if whole is None or len(self.weights.shape) == 2:
            return whole
        index = np.unravel_index(self.number, self.weights.shape[:-2])

        def packed() -> QuantizedArray:
            part = whole()[tuple(map(int, index))]
            assert isinstance(part, QuantizedArray)
            return part

        return packed


def plain_tensors(
    source: Checkpoint, dtype: str, family: str | None = None
) -> tuple[list[PlainTensor], list[str]]:
    """Returns what a plain checkpoint of ``source`` holds, and notes on what was left out.

    - dtype: ``"bfloat16"`` or ``"float32"``, for weights that are packed or quantized. Plain
      tensors stay as they are; float32 widens them

    Raises UnsupportedFormatError, naming the tensor, for what cannot be told.
    """
    return _Plain(source, DTYPES[dtype], family).found()


def is_packed(source: Checkpoint) -> bool:
    """Returns whether binq wrote a checkpoint."""
    if source.is_gguf:
        return False
    return bool(settings_of(source)) or any(
        binq_metadata.KEY in file.metadata for file in _files(source)
    )


def _files(source: Checkpoint) -> Iterator[SafetensorsFile]:
    for path in source.file_paths().values():
        with SafetensorsFile(path) as file:
            yield file


class _Plain:
    def __init__(self, source: Checkpoint, dtype: str, family: str | None) -> None:
        self._source, self._dtype = source, dtype
        self._numpy = numpy_dtype(dtype)
        self._notes: list[str] = []
        self._settings = settings_of(source)
        self._family = find_family(source, family)
        self._named = family
        self._maps: dict[Path, dict[str, NDArray[Any]]] = {}

    def found(self) -> tuple[list[PlainTensor], list[str]]:
        weights, tensors = self._packed() if is_packed(self._source) else self._logical()
        weights, alone = self._experts(weights)
        tensors += alone
        tensors += [self._weight(one) for one in weights]
        left = [t.name for t in tensors if _LEFTOVER.search(t.name)]
        if left:
            self._notes.append(
                f"{len(left)} scales of activations were left out, the first {left[0]!r}: plain "
                "models have none"
            )
        tensors = [t for t in tensors if not _LEFTOVER.search(t.name)]
        names: set[str] = set()
        for tensor in tensors:
            if tensor.name in names:
                raise FormatError(
                    f"{self._source.path}: two tensors would be stored as {tensor.name!r}"
                )
            names.add(tensor.name)
        return sorted(tensors, key=lambda t: t.name), self._notes

    # What binq wrote.

    def _packed(self) -> tuple[list[_Weights], list[PlainTensor]]:
        packed, kept = [], []
        for file in _files(self._source):
            described = binq_metadata.described(file.metadata, file.path)[0]
            parts = binq_metadata.stored_names(described)
            for name, d in described.items():
                packed.append(self._stored(file.path, name, StoredPacked(file, name, d)))
            kept += [name for name in file if name not in parts and name in self._source]
        weights, tensors = self._read_all(kept_tensors(self._source, kept, self._family))
        return packed + weights, tensors

    def _stored(self, path: Path, name: str, stored: StoredPacked) -> _Weights:
        d = stored.description

        def rows(matrix: int, start: int, stop: int) -> NDArray[np.float32]:
            file = self._source.file(path.name)
            packed = StoredPacked(file, name, d).read_rows(matrix, start, stop)
            out = np.empty(packed.shape, np.float32)
            packed.dequantize(out)
            return out

        def packed() -> QuantizedArray:
            return binq_metadata.assemble(name, d, self._mapped(path), path)

        step = max(1, _CACHED // max(1, 4 * d.shape[-1]) // TILE_ROWS) * TILE_ROWS
        return _Weights(name, d.shape, rows, step, stored.nbytes, str(d.packing), packed)

    def _mapped(self, path: Path) -> dict[str, NDArray[Any]]:
        """Returns all stored arrays of a file, mapped in memory."""
        if path not in self._maps:
            with SafetensorsFile(path) as file:
                self._maps[path] = file.map_all()
        return self._maps[path]

    # What other libraries wrote.

    def _logical(self) -> tuple[list[_Weights], list[PlainTensor]]:
        return self._read_all(logical_tensors(self._source, self._named, look=False))

    def _read_all(self, found: Sequence[LogicalTensor]) -> tuple[list[_Weights], list[PlainTensor]]:
        weights, tensors = [], []
        source = self._source
        for tensor in found:
            nbytes = sum(source.info(name).nbytes for name in tensor.stored)
            if tensor.scheme in ("plain", "transposed", "flattened") and tensor.copyable:
                info = source.info(tensor.stored[0])
                args = (tensor.name, tensor.stored[0], info.dtype, info.shape, nbytes)
                apart = len(info.shape) > 2 and _STACKED.match(tensor.name)
                if apart or (self._fuses and _ALONE.match(tensor.name)):
                    weights.append(self._read(tensor, nbytes))
                else:
                    tensors.append(self._kept(*args))
            elif len(tensor.shape) < 2 or tensor.size == 0:
                tensors.append(self._small(tensor, nbytes))
            else:
                weights.append(self._read(tensor, nbytes))
        return weights, tensors

    def _read(self, tensor: LogicalTensor, nbytes: int) -> _Weights:
        def rows(matrix: int, start: int, stop: int) -> NDArray[Any]:
            return tensor.read_values(self._source, matrix, start, stop)

        blocks = tensor.blocks(BLOCK_BYTES)
        step = blocks[0][1] - blocks[0][0] if blocks else 1
        return _Weights(tensor.name, tensor.shape, rows, step, nbytes, tensor.dtype)

    def _small(self, tensor: LogicalTensor, nbytes: int) -> PlainTensor:
        dtype = tensor.dtype if tensor.dtype in FLOATS else self._dtype
        dtype = self._widened(dtype)

        def read() -> Blocks:
            for values in tensor.read_all(self._source, BLOCK_BYTES):
                yield _rounded(values, numpy_dtype(dtype), tensor.name)

        return PlainTensor(tensor.name, dtype, tensor.shape, read, nbytes, tensor.dtype)

    # What both become.

    def _widened(self, dtype: str) -> str:
        return "F32" if self._dtype == "F32" and dtype in _NARROW else dtype

    def _kept(
        self, name: str, stored: str, dtype: str, shape: tuple[int, ...], nbytes: int
    ) -> PlainTensor:
        """Returns a tensor that is copied, or widened."""
        wide = self._widened(dtype)

        def read() -> Blocks:
            for start in range(0, nbytes, COPY_BYTES):
                data = self._source.read_bytes(stored, start, min(start + COPY_BYTES, nbytes))
                if wide == dtype:
                    yield data
                else:
                    yield to_float32(data.view(numpy_dtype(dtype)))

        return PlainTensor(name, wide, shape, read, nbytes, dtype)

    def _weight(self, w: _Weights) -> PlainTensor:
        """Returns dequantized weights, in the order of axes that the model's class has."""
        flattened = self._settings.get("flattened", {})
        turned = w.name in self._settings.get("transposed", ()) or self._is_turned(w)
        shape = w.shape
        if w.name in flattened:
            shape = tuple(flattened[w.name])
            if prod(shape) != prod(w.shape):
                raise FormatError(
                    f"{self._source.path}: {w.name!r} of shape {w.shape} cannot have the shape "
                    f"{shape} that config.json gives it"
                )
        if turned:
            shape = (*shape[:-2], shape[-1], shape[-2])

        def read() -> Blocks:
            for matrix in range(prod(w.shape[:-2])):
                if turned:
                    yield np.ascontiguousarray(w.whole(matrix, self._numpy).T)
                else:
                    yield from w.blocks(matrix, self._numpy)

        form = "transposed" if turned else "flattened" if shape != w.shape else ""
        return PlainTensor(w.name, self._dtype, shape, read, w.nbytes, w.was, w.packed, form)

    def _is_turned(self, w: _Weights) -> bool:
        return self._family.is_input_major(w.name)

    def _experts(self, weights: Sequence[_Weights]) -> tuple[list[_Weights], list[PlainTensor]]:
        """Returns the weights, and experts as the model's class has them: fused, or one by one."""
        rest: list[_Weights] = []
        done: list[PlainTensor] = []
        fused: dict[str, dict[str, list[_Matrix]]] = {}
        for w in weights:
            stacked, alone = _STACKED.match(w.name), _ALONE.match(w.name)
            if stacked and len(w.shape) == 3:
                each = [_Matrix(w, expert) for expert in range(w.shape[0])]
                if self._fuses:
                    fused.setdefault(f"{stacked[1]}experts", {})[stacked[2]] = each
                else:
                    for expert, matrix in enumerate(each):
                        name = f"{stacked[1]}experts.{expert}.{_leaf(*stacked.groups())}.weight"
                        done.append(self._alone(name, matrix))
            elif alone and self._fuses:
                kinds = fused.setdefault(alone[1], {})
                kinds.setdefault(alone[3], []).append(_Matrix(w, 0, int(alone[2])))
            else:
                rest.append(w)
        for prefix, kinds in fused.items():
            done += self._fused(prefix, kinds)
        return rest, done

    @property
    def _fuses(self) -> bool:
        """Returns whether the model's class has all experts of a layer in one tensor."""
        return self._family.name in _FUSED

    def _alone(self, name: str, matrix: "_Matrix") -> PlainTensor:
        w = matrix.weights

        def read() -> Blocks:
            return w.blocks(matrix.number, self._numpy)

        packed = matrix.packed()
        return PlainTensor(name, self._dtype, w.shape[-2:], read, matrix.nbytes, w.was, packed)

    def _fused(self, prefix: str, kinds: dict[str, list["_Matrix"]]) -> Iterator[PlainTensor]:
        for matrices in kinds.values():
            matrices.sort(key=lambda matrix: matrix.expert)
        groups = [["gate_up"], ["down"]] if "gate_up" in kinds else [["gate", "up"], ["down"]]
        counts = {len(matrices) for matrices in kinds.values()}
        numbers = {tuple(m.expert for m in matrices) for matrices in kinds.values()}
        whole = {kind for group in groups for kind in group} == set(kinds)
        if not whole or len(numbers) != 1 or numbers != {tuple(range(max(counts)))}:
            raise FormatError(
                f"{self._source.path}: {prefix!r} has not the same experts of "
                f"{', '.join(sorted(kinds))}: they cannot be put together"
            )
        for group in groups:
            columns = [kinds[kind] for kind in group]
            yield self._joined(f"{prefix}.{'_'.join(group)}_proj", columns)

    def _joined(self, name: str, columns: list[list["_Matrix"]]) -> PlainTensor:
        """Returns one stack of each expert's matrices, one below the other."""
        rows = sum(matrices[0].weights.shape[-2] for matrices in columns)
        inputs = columns[0][0].weights.shape[-1]
        for matrix in (m for matrices in columns for m in matrices):
            first = next(c[0] for c in columns if matrix in c)
            if matrix.weights.shape[-2:] != first.weights.shape[-2:] or (
                matrix.weights.shape[-1] != inputs
            ):
                raise FormatError(
                    f"{self._source.path}: {matrix.weights.name!r} of shape "
                    f"{matrix.weights.shape} does not fit the other experts"
                )
        turned = self._family.is_input_major(name)

        def read() -> Blocks:
            for matrices in zip(*columns, strict=True):
                parts = [m.weights.whole(m.number, self._numpy) for m in matrices]
                whole = np.concatenate(parts)
                yield np.ascontiguousarray(whole.T) if turned else whole

        shape = (len(columns[0]), *((inputs, rows) if turned else (rows, inputs)))
        nbytes = sum(m.nbytes for matrices in columns for m in matrices)
        one = columns[0][0].weights
        form = "joined" if one.packed is not None else ""
        return PlainTensor(name, self._dtype, shape, read, nbytes, one.was, one.packed, form)


def _leaf(prefix: str, kind: str) -> str:
    """Returns what a family calls a matrix of an expert."""
    return _MIXTRAL_LEAVES[kind] if prefix.endswith(_MIXTRAL) else f"{kind}_proj"


def _rounded(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Returns values in another float type. Raises NonFiniteError for inf and NaN."""
    largest = 0.0
    if values.dtype == np.float32 and values.size:
        # Two passes without another array; a NaN is both the least and the greatest.
        largest = max(-float(values.min()), float(values.max()))
        finite = math.isfinite(largest)
    else:
        finite = bool(is_finite(values).all())
    if not finite:
        raise NonFiniteError(f"{name}: weights that are inf or NaN: its scales are damaged")
    if values.dtype == dtype:
        return values
    wide = to_float32(values)
    if dtype == ml_dtypes.bfloat16:
        if values.dtype != np.float32:
            largest = np.abs(wide).max(initial=0.0)
        if largest > 3.3895314e38:
            raise ValueError(f"{name}: bfloat16 does not hold {largest:.8g}: use float32")
    return wide.astype(dtype, copy=False)
