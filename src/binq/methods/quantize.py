"""quantize and dequantize: float weights to packed ones and back."""

import warnings
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from binq import _core, _memory
from binq.array.array import QuantizedArray
from binq.array.checks import (
    as_float32,
    check_bool,
    check_choice,
    check_group_size,
    is_ml_float,
    plain_array,
)
from binq.errors import NonFiniteError, ScaleRangeWarning
from binq.formats import Format, Geometry, get_format

_SCALE_DTYPES = ("float16", "float32")
_NATIVE_INPUTS = ("float32", "float16", "bfloat16", "float64")
# Weights are looked at for inf and NaN in blocks of about this many.
_BLOCK = 1 << 20


def quantize(
    w: ArrayLike,
    format: str,
    *,
    group_size: int | None = 128,
    method: str = "mse",
    symmetric: bool = True,
    scale_dtype: DTypeLike = "float16",
    nonfinite: str = "raise",
) -> QuantizedArray:
    """Returns w in packed form: a few bits a weight and a scale for each group.

    The weights of a group become ``scale * code``, or with symmetric=False
    ``scale * (code - zero_point)`` (int4) and ``scale * code + midpoint`` (binary).

    - w: ``(..., out_features, in_features)``, real numbers of any dtype and memory layout; read
      as float32 and never changed
    - format: ``"binary"`` (−1 and +1), ``"ternary"`` (−1, 0 and +1) or ``"int4"`` (16 levels)
    - group_size: 32, 64, 128 or 256 weights of a row that share a scale, or None: the whole row.
      The last group of a row may be shorter
    - method: ``"mse"``: the scale (and zero point) with the least squared error of all there are,
      found exactly in each group; or a quick rule: ``"absmax"`` (int4: ``max|w| / 7``; asymmetric:
      from the smallest to the largest weight) and ``"absmean"`` (``mean|w|``, as in BitNet b1.58
      for ternary and XNOR-Net for binary)
    - symmetric: False gives each group a zero point (int4) or any two levels (binary); ternary
      has no such form
    - scale_dtype: ``"float16"`` or ``"float32"``. A tensor with a scale that float16 does not
      hold gets float32 scales, and a ScaleRangeWarning says so
    - nonfinite: ``"raise"``, or ``"zero"`` to read inf and NaN as 0

    Raises NonFiniteError (a ValueError) if w has inf or NaN, naming the first; TypeError for
    wrong types and dtypes; ValueError for the rest, such as a number that float32 cannot hold.

    Rules: Rastegari et al. 2016 (arXiv 1603.05279), Ma et al. 2024 (arXiv 2402.17764); the exact
    searches are described in docs/choosing.md.

    >>> import numpy as np, binq
    >>> w = np.array([[0.1, -0.3, 0.3, 1.0]], np.float32)
    >>> binq.quantize(w, "ternary", group_size=32).dequantize()
    array([[0., 0., 0., 1.]], dtype=float32)
    >>> binq.quantize(w, "ternary", group_size=32, method="absmean").codes()
    array([[ 0, -1,  1,  1]], dtype=int8)
    """
    q, widened = quantize_unwarned(
        w,
        format,
        group_size=group_size,
        method=method,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        nonfinite=nonfinite,
    )
    if widened:
        warnings.warn(
            "float16 does not hold every scale of w: its scales are kept in float32",
            ScaleRangeWarning,
            stacklevel=2,
        )
    return q


def quantize_unwarned(
    w: ArrayLike,
    format: str,
    *,
    group_size: int | None = 128,
    method: str = "mse",
    symmetric: bool = True,
    scale_dtype: DTypeLike = "float16",
    nonfinite: str = "raise",
) -> tuple[QuantizedArray, bool]:
    """Returns what :func:`quantize` returns, and whether its scales had to become float32."""
    kind = get_format(format)
    method = check_choice("method", method, kind.methods)
    if not check_bool("symmetric", symmetric) and not kind.has_asymmetric:
        raise ValueError(f"symmetric must be True for format {kind.name!r}: it has no zero points")
    half = _check_scale_dtype(scale_dtype) == "float16"
    zero_nonfinite = check_choice("nonfinite", nonfinite, ("raise", "zero")) == "zero"
    group_size = check_group_size(group_size)
    weights = _check_weights(w)
    geometry = Geometry(weights.shape[-2], weights.shape[-1], group_size)

    q, status = _quantize(weights, kind, geometry, method, symmetric, half)
    if status & _core.STATUS_NONFINITE:
        weights = _without_nonfinite(weights, zero_nonfinite)
        q, status = _quantize(weights, kind, geometry, method, symmetric, half)
    widened = bool(status & _core.STATUS_SCALE_RANGE)
    if widened:
        q, _ = _quantize(weights, kind, geometry, method, symmetric, half=False)
    return q, widened


def dequantize(q: QuantizedArray, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Returns the weights of q as floats, ``(..., out_features, in_features)``.

    The same as ``q.dequantize(dtype)``: float32 unless another float dtype is named.
    Raises TypeError if q is not a QuantizedArray or dtype is not a float.

    >>> import numpy as np, binq
    >>> binq.dequantize(binq.quantize([[-2.0, 2.0, 2.0]], "binary"))
    array([[-2.,  2.,  2.]], dtype=float32)
    """
    if not isinstance(q, QuantizedArray):
        raise TypeError(f"q must be a QuantizedArray, got {type(q).__name__}")
    return q.dequantize(dtype)


def _check_scale_dtype(scale_dtype: Any) -> str:
    name = scale_dtype
    if scale_dtype is not None and not isinstance(scale_dtype, str):
        with suppress(TypeError):  # check_choice words the error
            name = np.dtype(scale_dtype).name
    return check_choice("scale_dtype", name, _SCALE_DTYPES)


def _check_weights(w: Any) -> NDArray[Any]:
    """Returns w as an array of native byte order that the kernels read, C-contiguous."""
    if isinstance(w, QuantizedArray):
        raise TypeError("w is quantized already: quantize(w.dequantize(), ...) does it again")
    array = plain_array("w", w)
    dtype = array.dtype
    if dtype.name not in _NATIVE_INPUTS or (dtype.kind == "V" and not is_ml_float(dtype)):
        array = as_float32("w", array)
    if array.ndim < 2:
        raise ValueError(
            f"w must be (..., out_features, in_features): 2 or more axes, got shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _quantize(
    weights: NDArray[Any],
    kind: Format,
    geometry: Geometry,
    method: str,
    symmetric: bool,
    half: bool,
) -> tuple[QuantizedArray, int]:
    """Returns the packed weights and the status bits of the kernels."""
    shape = weights.shape
    lead = shape[:-2]
    scales_dtype = np.dtype(np.float16 if half else np.float32)
    packed = _memory.zeros((prod(lead), *kind.packed_shape(geometry)), np.uint8)
    scales = np.zeros((prod(lead), *geometry.scales_shape), scales_dtype)
    zero_points = None
    if not symmetric:
        stored = kind.zero_points_shape(geometry)
        zero_points = np.zeros((prod(lead), *stored), kind.zero_points_dtype(scales_dtype))

    status = 0
    if weights.size:
        matrices = weights.reshape(-1, *shape[-2:])
        for index, matrix in enumerate(matrices):
            status |= _core.quantize(
                kind.native,
                _core.METHODS[method],
                symmetric,
                _memory.as_bytes(matrix),
                _core.INPUT_TYPES[weights.dtype.name],
                matrix.strides[0],
                geometry.out_features,
                geometry.in_features,
                geometry.group_size or 0,
                not half,
                _memory.as_bytes(packed[index]),
                _memory.as_bytes(scales[index]),
                None if zero_points is None else _memory.as_bytes(zero_points[index]),
            )
    q = QuantizedArray._from_parts(
        kind,
        shape,
        geometry,
        packed.reshape(*lead, *packed.shape[1:]),
        scales.reshape(*lead, *scales.shape[1:]),
        None if zero_points is None else zero_points.reshape(*lead, *zero_points.shape[1:]),
    )
    return q, status


def _without_nonfinite(weights: NDArray[Any], zero_nonfinite: bool) -> NDArray[Any]:
    """Returns weights with 0 for inf and NaN, or raises NonFiniteError.

    Raises ValueError where float64 weights are finite but float32 cannot hold them.
    """
    flat = weights.reshape(-1)
    count = 0
    first = -1
    for start in range(0, flat.size, _BLOCK):
        wrong = np.flatnonzero(~is_finite(flat[start : start + _BLOCK]))
        if wrong.size and first < 0:
            first = start + int(wrong[0])
        count += wrong.size
    if count and not zero_nonfinite:
        index = ", ".join(str(i) for i in np.unravel_index(first, weights.shape))
        values = "1 value that is" if count == 1 else f"{count} values that are"
        raise NonFiniteError(
            f"w has {values} not finite, first w[{index}] = {float(flat[first])}; "
            'nonfinite="zero" reads them as 0'
        )
    if count:
        weights = with_zeros(weights)
    return as_float32("w", weights) if weights.dtype == np.float64 else weights


def with_zeros(weights: NDArray[Any]) -> NDArray[Any]:
    """Returns weights with 0 for inf and NaN: themselves where there is none."""
    finite = is_finite(weights)
    return weights if finite.all() else np.where(finite, weights, weights.dtype.type(0))


def is_finite(weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns np.isfinite of weights of any float dtype, without a warning."""
    with np.errstate(invalid="ignore"):  # a signalling NaN of bfloat16 would warn
        finite: NDArray[np.bool_] = np.isfinite(weights)
    return finite
