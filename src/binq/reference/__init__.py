"""Every operation of binq in plain numpy: the definition that the compiled kernels must meet.

Written to be read; imports numpy and the number types of ml_dtypes only, and nothing else in binq
imports it. All functions take one matrix of weights, ``(out_features, in_features)``, not a stack.
Formats are the names of ``FORMATS``; ``group_size`` is 32, 64, 128, 256 or None (one scale a row).

- formats: what codes stand for, and how they lie
- layout: tiles, groups, packed codes, stored scales and zero points
- product: dequantize, quantized activations, matmul
- quantizers: the scale of a group by each method, codes, quantize
- search: the best of all scales
- powers: the best of all powers of two
- levels: scales of levels that are not one step apart
- affine: scales and offsets of codes from 0
- rounding: from the best scale to the one that is stored
- scales: the types of scales
- errors: measure
- layers: what lies between products (not weights: arrays of floats)
"""

from binq.reference.errors import measure
from binq.reference.formats import FORMATS
from binq.reference.layout import (
    TILE_ROWS,
    count_groups,
    count_scale_groups,
    count_tiles,
    kernel_group_size,
    pack,
    pack_zero_points,
    tile_scales,
    unpack,
    unpack_zero_points,
    untile_scales,
)
from binq.reference.product import (
    ACTIVATION_LEVELS,
    dequantize,
    matmul,
    quantize_activations,
    weight_parts,
)
from binq.reference.quantizers import quantize, quantize_to_codes
from binq.reference.scales import scale_values

__all__ = [
    "ACTIVATION_LEVELS",
    "FORMATS",
    "TILE_ROWS",
    "count_groups",
    "count_scale_groups",
    "count_tiles",
    "dequantize",
    "kernel_group_size",
    "matmul",
    "measure",
    "pack",
    "pack_zero_points",
    "quantize",
    "quantize_activations",
    "quantize_to_codes",
    "scale_values",
    "tile_scales",
    "unpack",
    "unpack_zero_points",
    "untile_scales",
    "weight_parts",
]
