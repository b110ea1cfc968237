"""float8 with scales that multiply: one a tensor, a row, or a block of rows and columns.

The scales are ``X_scale_inv`` or ``X_scale`` of weights ``X``, floats or powers of two (E8M0). The
block size is the configuration's, 128 by 128 where it says none: the shape of the scales does not
tell it where the last block is ragged. Source: the README_WEIGHTS of DeepSeek V3; the FP8
integrations of transformers, fbgemm and vLLM.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage, check_size
from binq.storage.scaled import E8M0, Scaled, scale_grid, scale_type
from binq.storage.small_floats import FLOAT8

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("fp8", "fbgemm_fp8")
_SUFFIXES = ("_scale_inv", "_scale")
_USUAL = (128, 128)
_KINDS = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}


@dataclass(frozen=True)
class Float8(Scaled):
    """A float8 tensor and its scales."""

    scheme = "fp8"


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the float8 weights of a checkpoint by name."""
    block = _block_size(source, config)
    kind = config.get("fmt", "e4m3")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedFormatError(f"{source.path}: fp8 weights of fmt {kind!r}")
    powers = E8M0 if config.get("scale_fmt") == "ue8m0" else None
    found: dict[str, Storage] = {}
    for name in sorted(names):
        suffix = _SUFFIXES[0]
        if name.endswith(suffix) and name.removesuffix(suffix) not in names:
            raise FormatError(f"{source.path}: {name!r} has no {name.removesuffix(suffix)!r}")
        dtype = source.info(name).dtype
        if dtype not in FLOAT8:
            continue
        if dtype in _KINDS.values() and "fmt" in config and dtype != _KINDS[kind]:
            raise FormatError(f"{source.path}: {name!r} is {dtype}, the configuration says {kind}")
        found[name] = float8(source, name, names, block, powers)
    return found


def float8(
    source: "Checkpoint",
    name: str,
    names: Set[str],
    block: tuple[int, int] | None,
    bytes_are: str | None = None,
) -> Float8:
    """Returns a float8 weight, whose scales lie beside it; bytes_are: what scales of bytes are.

    Raises FormatError where it has none, or two, or scales of a shape that means nothing.
    """
    info = source.info(name)
    beside = [name + suffix for suffix in _SUFFIXES if name + suffix in names]
    if not beside:
        raise FormatError(f"{source.path}: float8 tensor {name!r} has no {name + _SUFFIXES[0]!r}")
    if len(beside) > 1:
        raise FormatError(f"{source.path}: float8 tensor {name!r} has {' and '.join(beside)}")
    if len(info.shape) < 2:
        raise FormatError(f"{source.path}: float8 tensor {name!r} is not a matrix: {info.shape}")
    (scales,) = beside
    grid, size = scale_grid(source, scales, info.shape, block)
    kind = scale_type(source, scales, bytes_are)
    return Float8(name, info.dtype, info.shape, scales, kind, grid, size)


def _block_size(source: "Checkpoint", config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the block size, None where the configuration denies blocks."""
    block = config.get("weight_block_size", list(_USUAL))
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2:
        raise FormatError(f"{source.path}: weight_block_size must be two sizes, got {block!r}")
    high, wide = (check_size(source, "weight_block_size", size) for size in block)
    return high, wide
