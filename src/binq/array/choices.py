"""The words that arguments take, as types: a type checker refuses ``quantize(w, "int5")``."""

from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

FormatName: TypeAlias = Literal[
    "binary", "ternary", "int2", "int3", "int4", "int8", "mxfp4", "iq4nl"
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
MethodName: TypeAlias = Literal["mse", "absmax", "absmean", "gptq"]
ZeroName: TypeAlias = Literal["code", "offset"]
ActivationsName: TypeAlias = Literal["float32", "int16", "int8"]
NonfiniteName: TypeAlias = Literal["raise", "zero"]
ScaleDType: TypeAlias = (
    Literal["float16", "float32", "bfloat16", "e8m0"]
    | type[np.float16]
    | type[np.float32]
    | np.dtype[Any]
)


class _UnsaidSize(int):
    """A group size that nobody asked for."""


class _UnsaidName(str):
    """A type of scales that nobody asked for."""


# Defaults of arguments: the format's own group size and type of scales, which most have alike.
DEFAULT_GROUP_SIZE: Final[int] = _UnsaidSize(128)
DEFAULT_SCALE_DTYPE: Final[Any] = _UnsaidName("float16")
