"""quantize and dequantize: float weights to packed ones and back."""

import warnings
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from binq.array import QuantizedArray
from binq.array.checks import (
    as_float32,
    check_bool,
    check_choice,
    check_int,
    check_scale_dtype,
    is_ml_float,
    plain_array,
)
from binq.array.choices import (
    DEFAULT_GROUP_SIZE,
    DEFAULT_SCALE_DTYPE,
    FormatName,
    MethodName,
    NonfiniteName,
    ScaleDType,
    ZeroName,
)
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.errors import NonFiniteError, ScaleRangeWarning, SizeWarning
from binq.formats.scales import FLOAT32, scale_name
from binq.methods.gptq import Gptq
from binq.methods.method import Method, Native, Nonfinite, ScaleRange, Task
from binq.methods.moments import Moments, check_moments

METHODS: dict[str, Method] = {
    **{name: Native(name) for name in ("mse", "absmax", "absmean")},
    "gptq": Gptq(),
}

_NATIVE_INPUTS = ("float32", "float16", "bfloat16", "float64")
# Weights are looked at for inf and NaN in blocks of about this many.
_BLOCK = 1 << 20


@overload
def quantize(
    w: ArrayLike,
    format: FormatName,
    *,
    group_size: int | None = DEFAULT_GROUP_SIZE,
    method: MethodName | Method = "mse",
    symmetric: bool = True,
    zero: ZeroName | None = None,
    scale_dtype: ScaleDType = DEFAULT_SCALE_DTYPE,
    nonfinite: NonfiniteName = "raise",
    importance: ArrayLike | None = None,
    stats: Moments | None = None,
    sweeps: int | None = None,
    return_bias: Literal[False] = False,
) -> QuantizedArray: ...


@overload
def quantize(
    w: ArrayLike,
    format: FormatName,
    *,
    group_size: int | None = DEFAULT_GROUP_SIZE,
    method: MethodName | Method = "mse",
    symmetric: bool = True,
    zero: ZeroName | None = None,
    scale_dtype: ScaleDType = DEFAULT_SCALE_DTYPE,
    nonfinite: NonfiniteName = "raise",
    importance: ArrayLike | None = None,
    stats: Moments | None = None,
    sweeps: int | None = None,
    return_bias: Literal[True],
) -> tuple[QuantizedArray, NDArray[np.float32]]: ...


def quantize(
    w: ArrayLike,
    format: FormatName,
    *,
    group_size: int | None = DEFAULT_GROUP_SIZE,
    method: MethodName | Method = "mse",
    symmetric: bool = True,
    zero: ZeroName | None = None,
    scale_dtype: ScaleDType = DEFAULT_SCALE_DTYPE,
    nonfinite: NonfiniteName = "raise",
    importance: ArrayLike | None = None,
    stats: Moments | None = None,
    sweeps: int | None = None,
    return_bias: bool = False,
) -> QuantizedArray | tuple[QuantizedArray, NDArray[np.float32]]:
    """Returns w in packed form: a few bits a weight and a scale for each group.

    The weights of a group become ``scale * code``, or with symmetric=False
    ``scale * (code - zero_point)`` or ``scale * code + offset``, as ``zero`` says.

    - w: ``(..., out_features, in_features)``, real numbers of any dtype and memory layout; read
      as float32 and never changed. The product is ``x @ q.T``: weights that are multiplied as
      ``x @ w``, (in_features, out_features), are quantized as ``w.T``
    - format: ``"binary"`` (−1 and +1), ``"ternary"`` (−1, 0 and +1), ``"int2"`` (−2 to 1),
      ``"int3"`` (−4 to 3), ``"int4"`` (16 levels), ``"int8"`` (256 levels), or one of 16 uneven
      levels: ``"mxfp4"`` (0, 1, 2, 3, 4, 6, 8, 12 of either sign: OCP's 4-bit floats) and
      ``"iq4nl"`` (llama.cpp's, denser about 0)
    - group_size: 32, 64, 128 or 256 weights of a row that share a scale, or None: the whole row;
      128 by default, and 32 for mxfp4.
      The last group of a row may be shorter; where one group holds the row, ``q.group_size`` is
      the smallest that does
    - method: ``"mse"``: the scale (and zero point) with the least squared error of all there are,
      found exactly in each group (int8 with zero points: for the two next to that of "absmax"); or
      a quick rule: ``"absmax"`` (int4: ``max|w| / 7``, int8: ``max|w| / 127``; asymmetric: from the
      smallest to the largest weight) and ``"absmean"`` (``mean|w|``, as in BitNet b1.58
      for ternary and XNOR-Net for binary); ``"gptq"`` (not binary): the least change of what the
      layer computes, with ``stats``; or a :class:`Method` of your own
    - symmetric: False gives each group a zero point (int4, int8), an offset (int2, int3) or any two
      levels (binary); ternary has no such form
    - zero: what symmetric=False stores where a format has more than one form, as int2 to int8 do:
      ``"code"``, a zero point, or ``"offset"``
    - scale_dtype: ``"float16"``, ``"bfloat16"``, ``"float32"``, or ``"e8m0"``, powers of two in a
      byte each (for symmetric weights with a level 0; the default of mxfp4). A tensor with
      a scale that its type does not hold gets float32 scales, and a ScaleRangeWarning says so
    - nonfinite: ``"raise"``, or ``"zero"`` to read inf and NaN as 0
    - importance: ``(in_features,)``, what the square of each input's error is multiplied by in
      ``"mse"``: numbers of 0 or more, such as the mean square of each input
    - stats: what a :class:`binq.Calibrator` knows of the layer's inputs, ``cal[name]``
    - sweeps: how often ``"gptq"`` improves all codes and scales once more, 2 by default
    - return_bias: return ``(q, correction)``: the correction ``(w − ŵ)·mean``, float32
      ``(..., out_features)``, is to be added to the layer's bias. ``"gptq"`` then counts only what
      a bias cannot undo: the inputs' covariance instead of their second moment

    Raises NonFiniteError (a ValueError) if w has inf or NaN, naming the first; TypeError for
    wrong types and dtypes; ValueError for the rest, such as a number that float32 cannot hold.
    Warns (SizeWarning) where the result is larger than float16: rows are stored in tiles of 32.

    Rules: Rastegari et al. 2016 (arXiv 1603.05279), Ma et al. 2024 (arXiv 2402.17764); the exact
    searches are described in docs/choosing.md.

    >>> import numpy as np, binq
    >>> w = np.array([[0.1, -0.3, 0.3, 1.0]], np.float32)
    >>> binq.quantize(w, "ternary", group_size=32).dequantize()
    array([[0., 0., 0., 1.]], dtype=float32)
    >>> binq.quantize(w, "ternary", group_size=32, method="absmean").codes()
    array([[ 0, -1,  1,  1]], dtype=int8)
    """
    packing = Packing.checked(format, group_size, symmetric, zero)
    chosen = _with_sweeps(get_method(method, packing), sweeps)
    said: Any = scale_dtype
    if scale_dtype is DEFAULT_SCALE_DTYPE:
        said = packing.kind.scale_dtype
    dtype = check_scale_dtype(said, "e8m0" in packing.scale_types())
    check_choice("nonfinite", nonfinite, ("raise", "zero"))
    weights = check_weights(w)
    packing = packing.fitted(weights.shape[-1])
    important = _check_importance(importance, weights, chosen)
    centred = check_bool("return_bias", return_bias)
    known = _check_stats(stats, weights, chosen, centred)
    task = Task(weights, packing, dtype, important, known, centred)
    packed, widened = quantize_task(task, chosen, nonfinite)
    if widened:
        warnings.warn(
            f"{scale_name(dtype)} does not hold every scale of w: its scales are kept in float32",
            ScaleRangeWarning,
            stacklevel=2,
        )
    if packed.nbytes > 2 * packed.size:
        warnings.warn(
            f"packed weights of shape {packed.shape} take {packed.nbytes} bytes, float16 ones "
            f"{2 * packed.size}: rows are padded to tiles of 32, columns to whole groups",
            SizeWarning,
            stacklevel=2,
        )
    q = QuantizedArray._of(packed)
    if not centred:
        return q
    assert known is not None
    if nonfinite == "zero":
        weights = with_zeros(weights)
    return q, bias_correction(weights, q, known)


def bias_correction(
    weights: NDArray[Any], q: QuantizedArray, stats: Moments
) -> NDArray[np.float32]:
    """Returns ``(w − ŵ)·mean``, float32 ``(..., out_features)``: what the layer's bias lacks."""
    mean = stats.mean.astype(np.float64)
    exact: NDArray[Any] = weights.astype(np.float32, copy=False) - q.dequantize()
    return (exact @ mean).astype(np.float32)


def quantize_task(task: Task, method: Method, nonfinite: str = "raise") -> tuple[Packed, bool]:
    """Returns packed weights, and whether their scales had to become float32.

    Raises NonFiniteError where the weights hold inf or NaN and ``nonfinite`` is not ``"zero"``.
    """
    if not method.checks_finite and not is_finite(task.weights).all():
        task = replace(task, weights=_without_nonfinite(task.weights, nonfinite == "zero"))
    try:
        try:
            return _packed(task, method), False
        except Nonfinite:
            task = replace(task, weights=_without_nonfinite(task.weights, nonfinite == "zero"))
            return _packed(task, method), False
    except ScaleRange:
        return _packed(replace(task, scale_dtype=FLOAT32), method), True


def _packed(task: Task, method: Method) -> Packed:
    """Returns what the method makes of a task, looked at where the method is not binq's."""
    found = method.quantize(task)
    if isinstance(method, Native | Gptq):
        return found
    if not isinstance(found, Packed):
        raise TypeError(f"method {str(method)!r} must return a Packed, got {type(found).__name__}")
    if (found.packing, found.shape) != (task.packing, task.weights.shape):
        raise ValueError(
            f"method {str(method)!r} must return {task.packing} of shape {task.weights.shape}, "
            f"got {found.packing} of shape {found.shape}"
        )
    return Packed.checked(found.packing, found.shape, *found.parts)


def get_method(method: object, packing: Packing) -> Method:
    """Returns the method of that name, or the method itself, if it has such a packing.

    Raises ValueError that lists the names; TypeError for what is neither a name nor a Method.
    """
    if isinstance(method, Method):
        found = method
        name = getattr(method, "name", None)
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a method must be a string, got {name!r}")
    else:
        others = (name for name, other in METHODS.items() if not isinstance(other, Native))
        names = [*packing.kind.methods, *others]
        if not isinstance(method, str):
            kind = f"class {method.__name__}" if isinstance(method, type) else type(method).__name__
            raise TypeError(
                f"method must be one of {', '.join(map(repr, names))} or an instance of "
                f"binq.methods.Method, got {kind}"
            )
        found = METHODS[check_choice("method", method, names)]
    found.check(packing)
    return found


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


def _check_importance(
    importance: Any, weights: NDArray[Any], method: Method
) -> NDArray[np.float32] | None:
    """Returns the importance of each input as float32, or None.

    Raises ValueError for a method that has no use for it, and for a value below 0 or not finite.
    """
    if importance is None:
        return None
    if not method.uses_importance:
        raise ValueError(f"importance must be None for method {str(method)!r}, which ignores it")
    values = as_float32("importance", importance)
    if values.shape != weights.shape[-1:]:
        raise ValueError(f"importance must have shape {weights.shape[-1:]}, got {values.shape}")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(f"importance must be finite and 0 or more, got {values[index]} at {index}")
    return values


def _check_stats(
    stats: Any, weights: NDArray[Any], method: Method, return_bias: bool
) -> Moments | None:
    """Returns the moments of the inputs, or None where none are given and none are needed."""
    if stats is None:
        if method.uses_statistics or return_bias:
            what = f"method {str(method)!r}" if method.uses_statistics else "return_bias=True"
            raise ValueError(f"stats must be given for {what}: binq.Calibrator collects them")
        return None
    if not (method.uses_statistics or return_bias):
        raise ValueError(
            f"stats must be None for method {str(method)!r}, which ignores them; "
            "method='gptq' uses them"
        )
    return check_moments(stats, weights.shape[-1])


def _with_sweeps(method: Method, sweeps: Any) -> Method:
    """Returns the method with that number of sweeps, if one is given."""
    if sweeps is None:
        return method
    if not isinstance(method, Gptq):
        raise ValueError(f"sweeps must be None for method {str(method)!r}, which has none")
    return Gptq(check_int("sweeps", sweeps, 0, 1000), method.damping)


def check_weights(w: Any) -> NDArray[Any]:
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
