"""The quantizers that binq's are timed against, each behind the same two functions.

``QUANTIZERS`` maps the name a table shows to (quantize, dequantize): the first turns float32 rows
into a blob of bytes, the second a blob into float32 of a shape. A library that is not installed
leaves its quantizers out of it.
"""

import ctypes
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from cases import Floats
from ggml import LlamaCpp
from numpy.typing import NDArray

Blob = NDArray[np.uint8]
Quantizer = tuple[Callable[[Floats], Blob], Callable[[Blob, tuple[int, int]], Floats]]
GGML_TYPES = {"Q4_0": 2, "TQ2_0": 35, "Q1_0": 41}


class _Traits(ctypes.Structure):
    """The beginning of ggml's ggml_type_traits."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def _ggml_quantize(ggml_type: int, w: Floats) -> Blob:
    out_features, in_features = w.shape
    blob = np.empty(w.size + 1024, np.uint8)
    nbytes = LlamaCpp.library().quantize(
        ggml_type, w.ctypes.data, blob.ctypes.data, 0, out_features, in_features, None, None
    )
    return blob[:nbytes]


def ggml_dequantize(ggml_type: int, blob: Blob, shape: tuple[int, int]) -> Floats:
    g = LlamaCpp.library()
    traits = g.bind(g.base, "ggml_get_type_traits", ctypes.POINTER(_Traits), ctypes.c_int)
    out = np.empty(shape, np.float32)
    traits(ggml_type).contents.to_float(blob.ctypes.data, out.ctypes.data, out.size)
    return out


def _gguf_quantize(kind: Any, w: Floats) -> Blob:
    import gguf

    blob: Blob = gguf.quants.quantize(w, kind)
    return blob


def _gguf_dequantize(kind: Any, blob: Blob, shape: tuple[int, int]) -> Floats:
    import gguf

    w: Floats = gguf.quants.dequantize(blob, kind)
    return w.reshape(shape)


def quantizers() -> dict[str, Quantizer]:
    """Returns name -> (quantize, dequantize) for each installed rival."""
    found: dict[str, Quantizer] = {}
    if importlib.util.find_spec("llama_cpp") is not None:
        for name, number in GGML_TYPES.items():
            found[f"llama.cpp {name}"] = (
                partial(_ggml_quantize, number),
                partial(ggml_dequantize, number),
            )
    if importlib.util.find_spec("gguf") is not None:
        from gguf import GGMLQuantizationType as Kind

        for kind in (Kind.Q4_0, Kind.TQ2_0):
            found[f"gguf (Python) {kind.name}"] = (
                partial(_gguf_quantize, kind),
                partial(_gguf_dequantize, kind),
            )
    return found


QUANTIZERS = quantizers()
