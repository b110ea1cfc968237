"""What folders of other libraries' forms have in common: shards, an index, a config.json, files."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from binq.convert.ahead import done_ahead
from binq.convert.card import README, SOURCE_README, is_card
from binq.convert.output import other_files
from binq.convert.plain import PlainTensor
from binq.convert.report import REPORT
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.convert.whole_folder import write_json
from binq.files.checkpoint import PLAIN_INDEX, SINGLE, Checkpoint
from binq.files.replacing import replacing
from binq.files.writer import AppendWriter, header_room

DTYPE_KEYS = ("dtype", "torch_dtype")
_SETTINGS = ("quantization_config", "compression_config", "quantization")
_SETTINGS_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", REPORT)


class Piece(NamedTuple):
    """What stays together in one file: the stored tensors of one weight.

    - names: of these tensors, or of as many that are as long
    - nbytes: about how many bytes they take
    - bytes_before: of what they are made of, for a progress bar
    - make: makes them, in any thread, and returns what appends them to a file and says what they
      are
    """

    names: tuple[str, ...]
    nbytes: int
    bytes_before: int
    make: Callable[[], Callable[[AppendWriter], TensorReport]]


def piece_of(tensor: PlainTensor) -> Piece:
    """Returns a plain tensor as what is written of it."""

    def write(writer: AppendWriter) -> TensorReport:
        writer.begin(tensor.name, tensor.dtype, tensor.shape)
        for values in tensor.read():
            writer.write(values)
        return TensorReport(
            tensor.name,
            tensor.shape,
            tensor.dtype,
            "other",
            tensor.bytes_before,
            tensor.nbytes,
            "" if tensor.was == tensor.dtype else f"was {tensor.was}",
        )

    # Read as it is written: it may be large.
    return Piece((tensor.name,), tensor.nbytes, tensor.bytes_before, lambda: write)


def write_shards(
    folder: Path,
    pieces: Sequence[Piece],
    max_shard_bytes: int,
    mode: int,
    advance: Progress,
    form: str = "pt",
) -> list[TensorReport]:
    """Returns a report of each piece, written to safetensors files with an index if several.

    - form: the ``format`` of the files' metadata, by which libraries know whose they are
    """
    shards: list[list[Piece]] = [[]]
    filled = 0
    for piece in pieces:
        if shards[-1] and filled + piece.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(piece)
        filled += piece.nbytes
    reports: list[TensorReport] = []
    places: dict[str, str] = {}
    size = 0
    for number, shard in enumerate(shards):
        name = SINGLE
        if len(shards) > 1:
            name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        sizes, done = _write_shard(folder / name, shard, mode, advance, form)
        reports += done
        places.update(dict.fromkeys(sizes, name))
        size += sum(sizes.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        write_json(folder / PLAIN_INDEX, index, mode)
    return reports


def _write_shard(
    path: Path, pieces: Sequence[Piece], mode: int, advance: Progress, form: str
) -> tuple[dict[str, int], list[TensorReport]]:
    reports = []
    with replacing(path, mode) as temporary:
        names = [name for piece in pieces for name in piece.names]
        writer = AppendWriter(temporary, header_room(names))
        try:
            writes = done_ahead(piece.make for piece in pieces)
            started = time.perf_counter()
            for piece, write in zip(pieces, writes, strict=True):
                entry = write(writer)
                entry.seconds, started = time.perf_counter() - started, time.perf_counter()
                reports.append(entry)
                advance(piece.bytes_before)
            writer.close({"format": form})
        except BaseException:
            writer.abandon()
            raise
    return writer.sizes, reports


def plain_config(config: Mapping[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """Returns a configuration without a word of quantization, its dtype replaced by ``dtype``."""
    plain = {key: value for key, value in config.items() if key not in _SETTINGS}
    for key, value in plain.items():
        if key in DTYPE_KEYS and isinstance(value, str) and dtype is not None:
            plain[key] = dtype
        elif key.endswith("_config") and isinstance(value, dict):
            plain[key] = plain_config(value, dtype)
    return plain


def copy_files(source: Checkpoint, folder: Path) -> None:
    """Copies the tokenizer and all else that is neither weights nor settings of quantization.

    Of a packed folder not the card of its weights, but the README of what was packed.
    """
    others = [path for path in other_files(source) if path.name not in _SETTINGS_FILES]
    packed = any(is_card(path) for path in others)
    for path in others:
        name = README if packed and path.name == SOURCE_README else path.name
        if not is_card(path):
            with replacing(folder / name, path.stat().st_mode) as temporary:
                shutil.copyfile(path, temporary)
