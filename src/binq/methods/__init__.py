"""Float weights to packed ones and back, and how far the one is from the other."""

from binq.methods.method import Method, ScaleRange, Task
from binq.methods.quantize import METHODS, dequantize, quantize

__all__ = ["METHODS", "Method", "ScaleRange", "Task", "dequantize", "quantize"]
