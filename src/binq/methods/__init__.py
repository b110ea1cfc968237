"""Float weights to packed ones and back, and how far the one is from the other."""

from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.methods.gptq import Gptq
from binq.methods.method import Method, ScaleRange, Task
from binq.methods.moments import Moments
from binq.methods.quantize import METHODS, dequantize, quantize

__all__ = [
    "METHODS",
    "Gptq",
    "Method",
    "Moments",
    "Packed",
    "Packing",
    "ScaleRange",
    "Task",
    "dequantize",
    "quantize",
]
