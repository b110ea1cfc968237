"""numpy arrays with 1-bit, ternary and int4 weights: quantize, store, multiply.

>>> import numpy as np
>>> import binq
>>> w = np.random.default_rng(0).standard_normal((512, 1024), dtype=np.float32)
>>> q = binq.quantize(w, "int4", group_size=128)
>>> x = np.ones((3, 1024), np.float32)
>>> y = x @ q.T
>>> y.shape
(3, 512)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from binq._version import __version__
from binq.array.array import QuantizedArray
from binq.array.joining import concatenate, stack
from binq.array.linear import linear, matmul, prepare
from binq.array.rotation import Rotation
from binq.errors import (
    FormatError,
    NonFiniteError,
    ScaleRangeWarning,
    SizeWarning,
    UnknownModelWarning,
    UnsupportedFormatError,
)
from binq.runtime import cpu_info, get_num_threads, set_num_threads

if TYPE_CHECKING:
    from binq import nn
    from binq.calibrator import Calibrator
    from binq.convert import dequantize_checkpoint, quantize_checkpoint
    from binq.export import export_checkpoint, quantize_onnx
    from binq.files import load_file, save_file
    from binq.loading import describe, load
    from binq.methods.quantize import dequantize, quantize

__all__ = [
    "Calibrator",
    "FormatError",
    "NonFiniteError",
    "QuantizedArray",
    "Rotation",
    "ScaleRangeWarning",
    "SizeWarning",
    "UnknownModelWarning",
    "UnsupportedFormatError",
    "__version__",
    "concatenate",
    "cpu_info",
    "dequantize",
    "dequantize_checkpoint",
    "describe",
    "export_checkpoint",
    "get_num_threads",
    "linear",
    "load",
    "load_file",
    "matmul",
    "nn",
    "prepare",
    "quantize",
    "quantize_checkpoint",
    "quantize_onnx",
    "save_file",
    "set_num_threads",
    "stack",
]

# Loaded on first use: what products never need, and the libraries that it brings.
_LAZY = {
    "Calibrator": "binq.calibrator",
    "dequantize": "binq.methods.quantize",
    "dequantize_checkpoint": "binq.convert",
    "describe": "binq.loading",
    "export_checkpoint": "binq.export",
    "load": "binq.loading",
    "load_file": "binq.files",
    "quantize": "binq.methods.quantize",
    "quantize_checkpoint": "binq.checkpoint",
    "quantize_onnx": "binq.export",
    "save_file": "binq.files",
}


def __getattr__(name: str) -> Any:
    if name == "nn":  # The import sets the attribute.
        return import_module("binq.nn")
    if name not in _LAZY:
        raise AttributeError(f"module 'binq' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
