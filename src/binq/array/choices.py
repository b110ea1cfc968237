"""The words that arguments take, as types: a type checker refuses ``quantize(w, "int5")``."""

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

FormatName: TypeAlias = Literal["binary", "ternary", "int2", "int3", "int4"]
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
