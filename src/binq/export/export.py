"""export_checkpoint: packed weights of binq in, the same weights in another library's form out."""

import os
import time
from pathlib import Path

from binq.array.checks import check_int, check_path
from binq.convert.convert import Bar
from binq.convert.destination import check_target
from binq.convert.output import links_left_out
from binq.convert.plain import plain_tensors
from binq.convert.plain_folder import plain_config
from binq.convert.report import Report
from binq.convert.shard import Progress
from binq.convert.whole_folder import whole_folder
from binq.errors import FormatError, UnsupportedFormatError
from binq.export.target import Model
from binq.export.targets import find_target
from binq.files.checkpoint import Checkpoint
from binq.files.replacing import remove_abandoned, replacing

# Marks a folder as the work of an export, so that a later one may delete it.
MARK = "binq-export.json"


def export_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    family: str | None = None,
    progress: bool | Progress = False,
) -> Report:
    """Returns a report of writing packed weights in another library's form, without any loss.

    What the form cannot hold is refused, with the reason for each weight, before anything is
    written (docs/exporting.md has a table). Tensors that are not packed stay as they are; those
    that the source keeps in another library's quantized form become bfloat16. Tokenizer and other
    files are copied to a folder. What is missing, such as config.json, is said in the report.
    Memory is about that of two matrices a thread.

    - src: a folder that ``binq quantize`` wrote, or a file that :func:`binq.save_file` wrote
    - dst: the folder, or for ``"gguf"`` and ``"onnx"`` the file, to make; its name appears when it
      is complete
    - to: ``"compressed-tensors"``, ``"gguf"``, ``"mlx"``, ``"gptq"``, ``"awq"``, ``"bitnet"``,
      ``"onnx"``, or the name of a registered storage scheme that writes
    - max_shard_bytes: where a new file of a folder begins
    - overwrite: replace dst if it exists
    - family: the name of a family, for a model whose configuration does not tell it
    - progress: True for a bar on a terminal, or a function called with numbers of bytes

    Raises ValueError for settings and for a source that binq did not pack, FileExistsError for an
    existing dst, UnsupportedFormatError for what the form cannot hold, FormatError for the source.

    >>> import binq, numpy as np, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> w = np.random.default_rng(0).standard_normal((64, 128))
    >>> q = binq.quantize(w, "int4", group_size=32)
    >>> binq.save_file({"model.layers.0.mlp.up_proj.weight": q}, folder / "packed.safetensors")
    >>> form = "compressed-tensors"
    >>> report = binq.export_checkpoint(folder / "packed.safetensors", folder / form, to=form)
    >>> binq.load(folder / form)["model.layers.0.mlp.up_proj.weight"] == q
    True
    """
    target = find_target(to)
    check_int("max_shard_bytes", max_shard_bytes, 1, 2**60)
    path = Path(os.path.realpath(check_path("dst", dst)))
    started = time.perf_counter()
    with Checkpoint(src) as source:
        model = _model(source, path, family, max_shard_bytes)
        if not model.packed:
            raise FormatError(
                f"{source.path}: no weights that binq packed: 'binq quantize' packs them, without "
                "loss where they are quantized already"
            )
        if not target.is_file:
            check_target(source, path)
        elif path.is_dir():
            raise IsADirectoryError(f"dst must be a file, got the folder {path}")
        elif path.exists() and any(path.samefile(p) for p in source.file_paths().values()):
            raise ValueError(f"dst must not be the source itself, got {path}")
        elif path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: overwrite=True (--overwrite) replaces it")
        _check_basis(model)
        target.check(model)
        total = sum(tensor.bytes_before for tensor in model.tensors)
        report = Report(str(source.path), str(path), notes=model.notes, plain=True)
        with Bar(progress, total) as advance:
            if target.is_file:
                remove_abandoned(path)
                with replacing(path, source.mode) as temporary:
                    report.tensors += target.write(model, temporary, advance)
            else:
                with whole_folder(path, overwrite, MARK) as folder:
                    report.tensors += target.write(model, folder, advance)
    report.seconds = time.perf_counter() - started
    report.bytes_done = total
    return report


def _check_basis(model: Model) -> None:
    """Raises UnsupportedFormatError for rotated weights, which no target can say."""
    rotated = [name for name, weights in model.packed.items() if weights.rotation is not None]
    if rotated:
        raise UnsupportedFormatError(
            f"{len(rotated)} weights are in a rotated basis, which other forms cannot express, the "
            f"first {rotated[0]!r}: 'binq dequantize' writes what they stand for"
        )


def _model(source: Checkpoint, path: Path, family: str | None, max_shard_bytes: int) -> Model:
    tensors, notes = plain_tensors(source, "bfloat16", family)
    notes += links_left_out(source)
    config = plain_config(source.config)
    if not config:
        notes.append(
            "there is no config.json: the output says no more of the model than its weights do"
        )
    elif source.path.is_dir() and not any(source.path.glob("tokenizer*")):
        notes.append("there is no tokenizer: the output has none")
    return Model(source, config, tuple(tensors), max_shard_bytes, path, notes)
