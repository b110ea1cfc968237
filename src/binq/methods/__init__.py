"""Float weights to packed ones and back, and how far the one is from the other."""

from binq.methods.quantize import dequantize, quantize

__all__ = ["dequantize", "quantize"]
