"""NVFP4: 4-bit floats in groups of 16, each with a float8 scale, and a float for the whole tensor.

``FP4[nibble] * (scale * weight_scale_2)`` as ModelOpt writes it, ``scale / weight_global_scale`` as
compressed-tensors does. The low nibble of a byte comes first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from binq.errors import FormatError
from binq.storage.scaled import E4M3, E8M0, Scaled, check_overall

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

GROUP = 16


@dataclass(frozen=True)
class Nvfp4(Scaled):
    """Bytes of two weights, the scales of their groups and the scale of the tensor."""

    scheme = "nvfp4"

    @property
    def dtype(self) -> str:
        return "NVFP4"


def nvfp4(
    source: "Checkpoint", name: str, scales: str, overall: str | None, divides: bool
) -> Nvfp4:
    """Returns NVFP4 weights of bytes (..., rows, inputs / 2); other shapes are a FormatError."""
    shape = fp4_shape(source, name, scales, GROUP, E4M3)
    if overall is not None:
        check_overall(source, overall, shape[:-2])
    grid = (shape[-2], shape[-1] // GROUP)
    return Nvfp4(name, "F4", shape, scales, E4M3, grid, (1, GROUP), overall, divides)


def fp4_shape(
    source: "Checkpoint", name: str, scales: str, group: int, kind: str
) -> tuple[int, ...]:
    """Returns the logical shape of 4-bit floats, two a byte, whose scales were checked.

    kind: the type of the scales, which may also be stored as U8 where it is E8M0.
    """
    codes, scale = source.info(name), source.info(scales)
    *lead, rows, width = codes.shape if len(codes.shape) >= 2 else (0, 0)
    types = (kind, "U8") if kind == E8M0 else (kind,)
    grid = (*lead, rows, 2 * width // group)
    if codes.dtype != "U8" or 2 * width % group or scale.shape != grid or scale.dtype not in types:
        raise FormatError(
            f"{source.path}: {name!r} is {codes.dtype} {codes.shape}, scales {scale.dtype} "
            f"{scale.shape}, expected U8 and {types[-1]} {grid} for groups of {group} 4-bit floats"
        )
    return (*lead, rows, 2 * width)
