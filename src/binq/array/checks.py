"""Checks of arguments, with the messages that users see: name, what is allowed, what was given."""

import operator
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from binq.formats.layout import GROUP_SIZES
from binq.formats.scales import E8M0, SCALE_NAMES, scale_dtype

if TYPE_CHECKING:
    from pathlib import Path

_TYPE_NAMES = {"float8_e8m0fnu": "e8m0"}  # by ml_dtypes
_FLOAT32 = np.dtype(np.float32)
# ml_dtypes' floats have kind "V" (bfloat16) or "f"; numpy knows them by name only.
_REAL_KINDS = "fiub"


class Opaque:
    """Base of what holds packed weights: no array of floats, though numpy would make one."""

    __slots__ = ()


def check_group_size(group_size: object) -> int | None:
    """Returns ``group_size`` as an int, or None.

    Raises TypeError for what is not an integer (a bool is not), ValueError for other numbers.
    """
    if group_size is None:
        return None
    is_integer = isinstance(group_size, int | np.integer) and not isinstance(group_size, bool)
    if is_integer and group_size in GROUP_SIZES:
        return int(group_size)
    kind = ValueError if is_integer else TypeError
    sizes = ", ".join(map(str, GROUP_SIZES))
    raise kind(f"group_size must be {sizes} or None, got {group_size!r}")


def check_bool(name: str, value: object) -> bool:
    """Returns ``value`` as a bool. Raises TypeError unless it is one (numpy's included)."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def check_int(name: str, value: Any, low: int, high: int = 2**31 - 1) -> int:
    """Returns ``value`` as an int in ``[low, high]``.

    Raises TypeError for what is not an integer (a bool is not), ValueError out of range.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not low <= number <= high:
        raise ValueError(f"{name} must be from {low} to {high}, got {number}")
    return number


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``choices``.

    Raises ValueError that lists the choices; TypeError if ``value`` is not a string.
    """
    names = tuple(choices)
    if isinstance(value, str) and value in names:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}")


def check_path(name: str, path: object) -> "Path":
    """Returns ``path`` as a Path.

    Raises TypeError unless it is text or an os.PathLike of text, ValueError for empty text.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str or an os.PathLike, got {path!r}")
    if not text:  # Path("") is the working folder
        raise ValueError(f"{name} must be a path, got ''")
    from pathlib import Path  # a tenth of the time that `import binq` takes

    return Path(text)


def check_matrix_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """Returns ``shape`` as a tuple of two or more ints >= 0: ``(..., out_features, in_features)``.

    name: what the errors call it.

    Raises TypeError for what is not a sequence of integers, ValueError for fewer than two or a
    negative one.
    """
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"{name} must be a sequence of integers, got {shape!r}") from None
    if len(sizes) < 2:
        raise ValueError(
            f"{name} must be (..., out_features, in_features): 2 or more axes, got {sizes}"
        )
    return tuple(
        check_int(f"{name}[{axis}]", size, 0, 2**48 - 1) for axis, size in enumerate(sizes)
    )


def check_stored(
    name: str, array: object, dtypes: tuple[np.dtype[Any], ...], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Returns a plain read-only view of ``array``, whose dtype and shape must be the given ones.

    Only an array that is not aligned is copied.
    Raises TypeError for a wrong type or dtype, ValueError for a wrong shape.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(array).__name__}")
    if array.dtype not in dtypes:
        *names, last = (dtype.name for dtype in dtypes)
        allowed = f"{', '.join(names)} or {last}" if names else last
        raise TypeError(f"{name} must have dtype {allowed}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    # asarray strips subclasses such as memmap, whose every view costs microseconds.
    view = np.asarray(array).view()
    if not view.flags.aligned:
        view = view.copy()
    view.flags.writeable = False
    return view


def check_scale_dtype(value: Any, powers: bool) -> np.dtype[Any]:
    """Returns the dtype of arrays of scales of a type: a name such as ``"bfloat16"``, or a dtype.

    powers: whether powers of two are among the types.

    Raises ValueError that lists the names; TypeError for what is neither.
    """
    name = value
    if value is not None and not isinstance(value, str):
        with suppress(TypeError):  # check_choice words the error
            name = _TYPE_NAMES.get(np.dtype(value).name, np.dtype(value).name)
    dtype = scale_dtype(check_choice("scale_dtype", name, SCALE_NAMES))
    if dtype == E8M0 and not powers:
        raise ValueError(
            "scale_dtype must not be 'e8m0' for formats without a level 0 (binary, iq4nl) and "
            "where symmetric is False: powers of two need a code that stands for 0"
        )
    return dtype


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Returns ``out`` if it is a writable array of that shape, and of that dtype if one is given.

    Raises TypeError for a wrong type or dtype, ValueError for the rest.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy array, got {type(out).__name__}")
    if dtype is not None and out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    return out


def check_float_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """Returns ``dtype`` as a numpy dtype. Raises TypeError unless it is a float, ml_dtypes' too."""
    try:
        checked: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name} must be a float dtype, got {dtype!r}") from None
    if checked.kind != "f" and not is_ml_float(checked):
        raise TypeError(f"{name} must be a float dtype, got {checked}")
    return checked


def check_codes(
    name: str, codes: Any, levels: tuple[int, ...], shape: tuple[int, ...] | None = None
) -> NDArray[np.int8]:
    """Returns integer codes as int8, those above 127 less 256.

    Raises TypeError unless ``codes`` holds integers, ValueError for a shape other than ``shape``
    (or fewer than two axes) and for a value that is not one of ``levels``, naming its index.
    """
    array = plain_array(name, codes)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")
    if shape is None:
        check_matrix_shape(array.shape, f"the shape of {name}")
    elif array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    wrong = (array < levels[0]) | (array > levels[-1])
    for missing in set(range(levels[0], levels[-1])).difference(levels):
        wrong |= array == missing
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        if len(levels) > 3:
            allowed = f"from {levels[0]} to {levels[-1]}"
        else:
            allowed = " or ".join(map(str, levels))
        raise ValueError(f"{name} must be {allowed}, got {array[index]} at {index}")
    return array.astype(np.int8)


def check_group_values(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns scales or midpoints as float32, each finite.

    Raises TypeError unless they are real numbers, ValueError for a wrong shape or a value that is
    not finite or not in float32's range, at either end.
    """
    given = plain_array(name, values)
    array = as_float32(name, given)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    for wrong, rule in (
        (~np.isfinite(array), "must be finite"),
        ((array == 0) & (given != 0), "must be 0 or at least 1.4e-45, float32's smallest"),
    ):
        if wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(f"{name} {rule}, got {given[index]!s} at {index}")
    return array


def plain_array(name: str, x: Any) -> NDArray[Any]:
    """Returns ``x`` as a numpy array of whatever dtype.

    Raises TypeError for a masked array and for packed weights, which numpy would turn into floats
    without a word; ValueError for lists that are no array.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array, got a masked one")
    if isinstance(x, Opaque):
        raise TypeError(
            f"{name} must be a plain array, got {type(x).__name__}: "
            "call .dequantize() for its floats"
        )
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None


def as_float32(name: str, x: Any) -> NDArray[np.float32]:
    """Returns ``x`` as an aligned C-contiguous float32 array, itself if it is one already.

    x: an array of any real dtype (ml_dtypes' too) or layout, or nested lists of numbers.
    Raises TypeError for dtypes that are not real numbers; ValueError for a finite value that
    float32 cannot hold, naming its index.
    """
    # What most callers have, in half a microsecond less.
    if type(x) is np.ndarray and x.dtype == _FLOAT32:
        flags = x.flags
        if flags.c_contiguous and flags.aligned:
            return x
    array = plain_array(name, x)
    dtype = array.dtype
    if dtype != _FLOAT32:
        if not (dtype.kind in _REAL_KINDS or is_ml_float(dtype)):
            raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")
        if dtype.kind == "f" and dtype.itemsize > 4:
            array = _narrow(name, array)
        else:
            array = array.astype(_FLOAT32)
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = array.copy("C")
    return array


def is_ml_float(dtype: np.dtype[Any]) -> bool:
    """Returns whether ``dtype`` is a float of ml_dtypes, such as bfloat16 or float8_e4m3fn."""
    return dtype.type.__module__ == "ml_dtypes" and "float" in dtype.name


def _narrow(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Returns float64 or wider as float32; a finite value must not become infinite."""
    try:
        with np.errstate(over="raise", under="ignore", invalid="ignore"):
            return array.astype(_FLOAT32)
    except FloatingPointError:
        limit = float(np.finfo(_FLOAT32).max)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            lost = np.isinf(array.astype(_FLOAT32)) & np.isfinite(array)
        index = tuple(int(i) for i in np.argwhere(lost)[0])
        place = ", ".join(map(str, index))
        raise ValueError(
            f"{name}[{place}] = {array[index]!s} does not fit float32 (largest {limit:.8g})"
        ) from None
