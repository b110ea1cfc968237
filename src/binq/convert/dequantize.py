"""dequantize_checkpoint: whatever binq reads in, a plain checkpoint folder out."""

import os
import time
import warnings
from pathlib import Path
from typing import Any, Literal

from binq.array.checks import check_choice, check_int, check_path
from binq.convert.convert import Bar
from binq.convert.destination import check_target
from binq.convert.plain import DTYPES, is_packed, plain_tensors
from binq.convert.plain_folder import DTYPE_KEYS, copy_files, piece_of, plain_config, write_shards
from binq.convert.report import Report
from binq.convert.shard import Progress
from binq.convert.whole_folder import whole_folder, write_json
from binq.errors import UnknownModelWarning
from binq.files.checkpoint import Checkpoint
from binq.files.replacing import replacing
from binq.models import what_is_unknown
from binq.models.gguf_folder import folder_of
from binq.models.mlx_rotation import config_of

# Marks a folder as the work of a dequantization, so that a later one may delete it.
MARK = "binq-dequantize.json"


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
    copied, config.json loses its ``quantization_config`` and keeps the rest. Of a GGUF file they
    are made of its metadata (docs/checkpoints.md). Memory is about that of one matrix.

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
        made = folder_of(source, family)
        report.notes += made.notes
        total = sum(tensor.bytes_before for tensor in tensors)
        with whole_folder(target, overwrite, MARK) as folder, Bar(progress, total) as advance:
            pieces = [piece_of(tensor) for tensor in tensors]
            report.tensors += write_shards(folder, pieces, max_shard_bytes, source.mode, advance)
            config = made.config if source.is_gguf else config_of(source)
            if config:
                write_json(folder / "config.json", _config(config, dtype), source.mode)
            for name, text in made.files.items():
                with replacing(folder / name, source.mode) as temporary:
                    temporary.write_text(text, encoding="utf-8", newline="")
            copy_files(source, folder)
    report.seconds = time.perf_counter() - started
    report.bytes_done = total
    return report


def _config(source: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Returns the source's configuration without a word of quantization."""
    config = plain_config(source, dtype)
    if not any(key in config for key in DTYPE_KEYS):
        config["dtype"] = dtype
    return config
