"""Targets that are folders of safetensors files: what a storage scheme writes, beside the rest."""

from collections.abc import Callable
from pathlib import Path

from binq.convert.plain import PlainTensor
from binq.convert.plain_folder import Piece, copy_files, piece_of, write_shards
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.convert.whole_folder import write_json
from binq.errors import UnsupportedFormatError
from binq.export.target import Model, Target, refuse, why_reshaped
from binq.files.dtypes import dtype_name
from binq.files.writer import AppendWriter
from binq.storage.scheme import Scheme, get

# The tensors that a scheme writes for one weight, at most, and the longest end of their names.
_PARTS, _LONGEST = 8, "_zero_point_scale"


class FolderTarget(Target):
    """A folder whose weights a storage scheme writes; all other tensors are plain.

    - scheme: the name of a registered scheme that writes
    """

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.scheme

    def check(self, model: Model) -> None:
        scheme = get(self.scheme).fitted(model.packed)
        reasons = {}
        for name, weights in model.packed.items():
            reason = why_reshaped(model.named(name))
            if not reason:
                try:
                    scheme.check(name, weights)
                except UnsupportedFormatError as error:
                    reason = str(error).removeprefix(f"{name}: ")
            if reason:
                reasons[name] = reason
        refuse(self.name, reasons)
        scheme.config(model.packed, model.kept)

    def write(self, model: Model, place: Path, advance: Progress) -> list[TensorReport]:
        scheme, mode = get(self.scheme).fitted(model.packed), model.source.mode
        pieces = [
            piece_of(tensor) if tensor.packed is None else _piece(scheme, tensor)
            for tensor in model.tensors
        ]
        size = model.max_shard_bytes
        reports = write_shards(place, pieces, size, mode, advance, scheme.file_format)
        settings = scheme.config(model.packed, model.kept) if model.packed else {}
        write_json(place / "config.json", {**model.config, **settings}, mode)
        copy_files(model.source, place)
        model.notes.extend(scheme.notes(model.packed))
        return reports


def _piece(scheme: Scheme, tensor: PlainTensor) -> Piece:
    """Returns packed weights as what is written of them."""
    packed = tensor.packed
    assert packed is not None

    def make() -> Callable[[AppendWriter], TensorReport]:
        weights = packed()
        arrays = scheme.write(tensor.name, weights)
        packing = str(weights._data.packing)

        def write(writer: AppendWriter) -> TensorReport:
            for name, array in arrays.items():
                writer.begin(name, dtype_name(array.dtype), array.shape)
                writer.write(array)
            nbytes = sum(array.nbytes for array in arrays.values())
            return TensorReport(
                tensor.name, tensor.shape, packing, "other", tensor.bytes_before, nbytes
            )

        return write

    names = (tensor.name + _LONGEST,) * _PARTS
    return Piece(names, tensor.bytes_before, tensor.bytes_before, make)
