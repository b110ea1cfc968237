"""Checkpoints of whole models: reads how families store them, quantizes them, streamed."""

from binq.checkpoint.convert import quantize_checkpoint
from binq.checkpoint.layouts import logical_tensors
from binq.checkpoint.report import Report, TensorReport
from binq.checkpoint.source import Checkpoint

__all__ = ["Checkpoint", "Report", "TensorReport", "logical_tensors", "quantize_checkpoint"]
