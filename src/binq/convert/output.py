"""What a packed checkpoint holds beside its shards: index, configuration, files that are copied."""

import re
from pathlib import Path
from typing import Any

from binq._version import __version__
from binq.convert.fingerprint import source_sample
from binq.convert.item import Settings
from binq.convert.plan import Plan
from binq.convert.report import REPORT
from binq.files.checkpoint import Checkpoint
from binq.files.settings import SIDE_FILES
from binq.models import find_family
from binq.models.gguf_folder import folder_of
from binq.models.gguf_names import LLAMA_CPP, convention
from binq.models.mlx_rotation import SIGNS, config_of, is_pack

# What the safetensors library leaves where it is killed.
_UNFINISHED = re.compile(r"\.tmp[A-Za-z0-9]{6}")
# Files that hold weights in some way: everything else is copied.
_WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx")


def weight_map(plan: Plan) -> dict[str, str]:
    """Returns the shard of each stored tensor of the output, as the index has it."""
    places = {
        name: plan.shard_name(n)
        for n, shard in enumerate(plan.shards)
        for item in shard
        for name in item.output_names
    }
    return dict(sorted(places.items()))


def output_config(source: Checkpoint, plan: Plan, settings: Settings) -> dict[str, Any]:
    """Returns the source's configuration with ``quantization_config`` replaced."""
    is_gguf = source.is_gguf
    config = dict(folder_of(source, settings.family).config if is_gguf else config_of(source))
    # MLX has its settings twice.
    keys = ("quantization", "compression_config", "quantization_config")
    before = [value for key in keys if (value := config.pop(key, None)) is not None]
    packing = settings.default.packing
    packed = [item.description for item in plan.items if not item.kept]
    block: dict[str, Any] = {
        "quant_method": "binq",
        "version": max((d.version for d in packed), default=1),
        "binq_version": __version__,
        "format": packing.format,
        "group_size": packing.group_size,
        "method": str(settings.default.method),
        "symmetric": packing.symmetric,
        "nonfinite": settings.default.nonfinite,
        "rules": list(settings.rules),
        "embeddings": settings.embeddings,
        "lm_head": settings.lm_head,
        "target_bpw": settings.target_bpw,
        "target_bytes": settings.target_bytes,
        "importance": settings.importance and Path(settings.importance.path).name,
        "calibration": settings.calibration and Path(settings.calibration.path).name,
        "corrected": {i.tensor.name: i.corrected for i in plan.items if i.corrected},
        "family": find_family(source, settings.family).name,
        "source_sample": source_sample(source),
        "transposed": sorted(
            item.tensor.name
            for item in plan.items
            if not item.kept and item.tensor.scheme == "transposed"
        ),
        "flattened": {
            item.tensor.name: source.info(item.tensor.stored[0]).shape
            for item in plan.items
            if not item.kept and item.tensor.scheme == "flattened"
        },
        "kept": sorted(item.tensor.name for item in plan.items if item.kept and not item.tied),
        "tied": {item.tensor.name: item.tied for item in plan.items if item.tied},
    }
    if source.is_gguf:
        block["convention"] = convention(source) if settings.family is None else LLAMA_CPP
    if before:
        block["source_quantization_config"] = before[-1]
    return config | {"quantization_config": block}


def other_files(source: Checkpoint) -> list[Path]:
    """Returns the files of the source's folder that hold no weights, in order of their names.

    There are none of a source that is one file: what lies beside it need not belong to it.
    """
    if source.is_gguf or not source.path.is_dir():
        return []
    # Settings of the source's quantization, which is no longer that of the output.
    known = {*source.files, "config.json", REPORT, *SIDE_FILES}
    if is_pack(source):
        known.add(SIGNS)
    return [
        path
        for path in sorted(source.path.iterdir())
        if path.name not in known
        and path.suffix not in _WEIGHT_SUFFIXES
        and not path.name.endswith(".index.json")
        and not _UNFINISHED.fullmatch(path.name)
        and path.is_file()
        and not _leads_out(path)
    ]


def links_left_out(source: Checkpoint) -> list[str]:
    """Returns what to say of the links that are not copied, since they lead out of the folder."""
    if source.is_gguf or not source.path.is_dir():
        return []
    return [
        f"{path.name} was not copied: it is a link to {path.readlink()}, outside of {source.path}"
        for path in sorted(source.path.iterdir())
        if path.suffix not in _WEIGHT_SUFFIXES and path.is_file() and _leads_out(path)
    ]


def _leads_out(path: Path) -> bool:
    """Returns whether a link leads out of its folder, other than to a blob of the same cache.

    The cache of Hugging Face has models/snapshots/REVISION/NAME -> ../../blobs/HASH.
    """
    if not path.is_symlink():
        return False
    folder = path.parent.resolve()
    real = path.resolve()
    in_cache = folder.parent.name == "snapshots" and real.parent == folder.parents[1] / "blobs"
    return not (in_cache or folder in real.parents)
