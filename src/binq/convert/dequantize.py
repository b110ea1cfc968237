"""dequantize_checkpoint: whatever binq reads in, a plain checkpoint folder out."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from binq.array.checks import check_choice, check_int, check_path
from binq.convert.convert import Bar
from binq.convert.lock import LOCK_NAMES, Lock
from binq.convert.output import other_files
from binq.convert.plain import DTYPES, PlainTensor, is_packed, plain_tensors
from binq.convert.report import REPORT, Report
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.convert.work import NOT_EMPTY, REPLACED, check_target, delete_folder, partial_of
from binq.errors import UnknownModelWarning
from binq.files.checkpoint import PLAIN_INDEX, SINGLE, Checkpoint
from binq.files.replacing import replacing, sync_folder
from binq.files.writer import AppendWriter, header_room
from binq.models import what_is_unknown

# Marks a folder as the work of a dequantization, so that a later one may delete it.
MARK = "binq-dequantize.json"
_SETTINGS = ("quantization_config", "compression_config", "quantization")
_SETTINGS_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json", REPORT)
_DTYPE_KEYS = ("dtype", "torch_dtype")


def dequantize_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    family: str | None = None,
    progress: bool | Progress = False,
) -> Report:
    """Returns a report of writing a plain checkpoint of what binq reads: no weight is quantized.

    For everything that takes plain Hugging Face folders only, such as DeepSeek's float8 weights on
    a CPU. Names and axes are those of the model's own class; the tokenizer and other files are
    copied, config.json loses its ``quantization_config`` and keeps the rest. A GGUF file has no
    config.json: the folder gets weights alone. Memory is about that of one matrix.

    - src: a folder that ``binq quantize`` wrote, or any source that
      :func:`binq.quantize_checkpoint` reads
    - dst: the folder to make; its name appears when it is complete
    - dtype: ``"bfloat16"`` or ``"float32"``, of weights that were quantized. Plain tensors are
      copied; ``"float32"`` widens them as well
    - max_shard_bytes: where a new file begins
    - overwrite: replace dst if it exists
    - family: the name of a family, for a model whose configuration does not tell it
    - progress: True for a bar on a terminal, or a function called with numbers of bytes

    Raises ValueError for settings, FileExistsError for an existing dst, FormatError and
    UnsupportedFormatError for the source, NonFiniteError naming the tensor.

    >>> import binq, numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "src").mkdir()
    >>> _ = (folder / "src" / "config.json").write_text('{"model_type": "qwen3"}')
    >>> w = {"model.layers.0.mlp.up_proj.weight": np.ones((64, 128), np.float32)}
    >>> binq.save_file(w, folder / "src" / "model.safetensors")
    >>> _ = binq.quantize_checkpoint(folder / "src", folder / "packed", "int4")
    >>> report = binq.dequantize_checkpoint(folder / "packed", folder / "plain")
    >>> binq.load(folder / "plain")["model.layers.0.mlp.up_proj.weight"].dtype
    dtype(bfloat16)
    """
    check_choice("dtype", dtype, DTYPES)
    check_int("max_shard_bytes", max_shard_bytes, 1, 2**60)
    target = Path(os.path.realpath(check_path("dst", dst)))
    started = time.perf_counter()
    with Checkpoint(src) as source:
        tensors, notes = plain_tensors(source, dtype, family)
        unknown = "" if is_packed(source) else what_is_unknown(source, family)
        if unknown:
            notes.insert(0, unknown)
            warnings.warn(f"{source.path}: {unknown}", UnknownModelWarning, stacklevel=2)
        check_target(source, target)
        report = Report(str(source.path), str(target), notes=notes, plain=True)
        if source.is_gguf:
            report.notes.append(
                "a GGUF file has no config.json and no tokenizer: take those of the model it is of"
            )
        total = sum(tensor.bytes_before for tensor in tensors)
        with _whole_folder(target, overwrite) as folder, Bar(progress, total) as advance:
            _write_shards(folder, tensors, max_shard_bytes, report, source.mode, advance)
            if not source.is_gguf and source.config:
                _write_json(folder / "config.json", _config(source, dtype), source.mode)
            for path in other_files(source):
                if path.name not in _SETTINGS_FILES:
                    with replacing(folder / path.name, path.stat().st_mode) as temporary:
                        shutil.copyfile(path, temporary)
    report.seconds = time.perf_counter() - started
    report.bytes_done = total
    return report


def _write_shards(
    folder: Path,
    tensors: Sequence[PlainTensor],
    max_shard_bytes: int,
    report: Report,
    mode: int,
    advance: Progress,
) -> None:
    shards: list[list[PlainTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    places = {}
    for number, shard in enumerate(shards):
        name = SINGLE
        if len(shards) > 1:
            name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard, report, mode, advance)
        places.update({tensor.name: name for tensor in shard})
    if len(shards) > 1:
        size = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        _write_json(folder / PLAIN_INDEX, index, mode)


def _write_shard(
    path: Path, tensors: Sequence[PlainTensor], report: Report, mode: int, advance: Progress
) -> None:
    with replacing(path, mode) as temporary:
        writer = AppendWriter(temporary, header_room([tensor.name for tensor in tensors]))
        try:
            for tensor in tensors:
                started = time.perf_counter()
                writer.begin(tensor.name, tensor.dtype, tensor.shape)
                for values in tensor.read():
                    writer.write(values)
                advance(tensor.bytes_before)
                entry = TensorReport(
                    tensor.name,
                    tensor.shape,
                    tensor.dtype,
                    "other",
                    tensor.bytes_before,
                    tensor.nbytes,
                    "" if tensor.was == tensor.dtype else f"was {tensor.was}",
                )
                entry.seconds = time.perf_counter() - started
                report.tensors.append(entry)
            writer.close({"format": "pt"})
        except BaseException:
            writer.abandon()
            raise


def _config(source: Checkpoint, dtype: str) -> dict[str, Any]:
    """Returns the source's configuration without a word of quantization."""
    config = _plain_config(source.config, dtype)
    if not any(key in config for key in _DTYPE_KEYS):
        config["dtype"] = dtype
    return config


def _plain_config(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    plain = {key: value for key, value in config.items() if key not in _SETTINGS}
    for key, value in plain.items():
        if key in _DTYPE_KEYS and isinstance(value, str):
            plain[key] = dtype
        elif key.endswith("_config") and isinstance(value, dict):
            plain[key] = _plain_config(value, dtype)
    return plain


@contextmanager
def _whole_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """Gives the folder ``target.partial``, which becomes ``target`` at the end.

    Whatever ends the work before leaves target as it was; what lay there is deleted last.
    """
    folder = partial_of(target)
    replaced = folder / REPLACED
    _check_ours(folder)
    _check_free(target, overwrite, replaced)
    folder.mkdir(exist_ok=True)
    with Lock(folder):
        if replaced.exists():  # a kill came between the last two renames
            if target.exists():
                target.rmdir()
            replaced.rename(target)
            _check_free(target, overwrite, replaced)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MARK):
            if not LOCK_NAMES.fullmatch(path.name):
                path.unlink(missing_ok=True)
        _write_json(folder / MARK, {"target": target.name})
        try:
            yield folder
            sync_folder(folder)
            if _is_filled(target):
                _check_free(target, overwrite, replaced)
                target.rename(replaced)
            elif target.exists():
                target.rmdir()
            folder.rename(target)
            sync_folder(target.parent)
        except BaseException:
            if folder.exists() and not replaced.exists():
                for path in folder.iterdir():
                    if not LOCK_NAMES.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            raise
        finally:
            for place in (folder, target):
                for path in place.glob("*.lock") if place.exists() else ():
                    if LOCK_NAMES.fullmatch(path.name):
                        path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
    (target / MARK).unlink(missing_ok=True)
    delete_folder(target / REPLACED)
    sync_folder(target)


def _is_filled(target: Path) -> bool:
    return target.exists() and any(target.iterdir())


def _check_free(target: Path, overwrite: bool, replaced: Path) -> None:
    if not _is_filled(target):
        return
    if replaced.exists():
        raise FileExistsError(
            f"{replaced} lay at {target} before, where there is something again: move one of them"
        )
    if not overwrite:
        raise FileExistsError(NOT_EMPTY.format(target))


def _check_ours(folder: Path) -> None:
    """Raises FileExistsError where ``dst.partial`` is not the work of a dequantization."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if names - {REPLACED} and MARK not in names:
        strange = sorted(name for name in names if not LOCK_NAMES.fullmatch(name))
        if strange:
            raise FileExistsError(f"{folder / strange[0]} is in the way: move it, or delete it")


def _write_json(path: Path, content: dict[str, Any], mode: int = 0o666) -> None:
    with replacing(path, mode) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
