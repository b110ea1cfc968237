"""Checkpoints of whole models: reads how families store them, quantizes them, streamed."""

from binq.convert.convert import quantize_checkpoint
from binq.convert.dequantize import dequantize_checkpoint
from binq.convert.report import Report
from binq.convert.tensor_report import TensorReport
from binq.files.checkpoint import Checkpoint
from binq.models import logical_tensors

__all__ = [
    "Checkpoint",
    "Report",
    "TensorReport",
    "dequantize_checkpoint",
    "logical_tensors",
    "quantize_checkpoint",
]
