"""What NVIDIA's ModelOpt writes: float8 weights, and NVFP4 in bytes of two.

``weight * weight_scale`` of float8, ``FP4[nibble] * (weight_scale * weight_scale_2)`` of bytes: the
types of the tensors say which. Source: ModelOpt's exporter and vLLM's reader of it.
"""

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage
from binq.storage.fp8 import float8
from binq.storage.nvfp4 import nvfp4
from binq.storage.small_floats import FLOAT8

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("modelopt", "modelopt_fp4")
_BLOCK = (128, 128)
# Algorithms whose tensors are of the two kinds.
_ALGORITHMS = (
    None, "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4",
    "MIXED_PRECISION",
)  # fmt: skip


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the float8 and NVFP4 weights of a checkpoint by name."""
    algorithm = config.get("quant_algo")
    if algorithm not in _ALGORITHMS:
        raise UnsupportedFormatError(f"{source.path}: ModelOpt's quant_algo {algorithm!r}")
    found: dict[str, Storage] = {}
    for name in sorted(names):
        dtype = source.info(name).dtype
        scales, overall = name + "_scale", name + "_scale_2"
        if dtype in FLOAT8 and not name.endswith(("_scale", "_scale_2")):
            found[name] = float8(source, name, names, _BLOCK)
        elif overall in names:
            if scales not in names:
                raise FormatError(f"{source.path}: {name!r} has {overall!r} and no {scales!r}")
            found[name] = nvfp4(source, name, scales, overall, divides=False)
    return found
