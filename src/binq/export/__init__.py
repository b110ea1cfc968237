"""Checkpoints of binq as other libraries have them: the same weights, without any loss."""

from binq.export.export import export_checkpoint
from binq.export.onnx_graph import quantize_onnx
from binq.export.target import Model, Target
from binq.export.targets import TARGETS, find_target

__all__ = ["TARGETS", "Model", "Target", "export_checkpoint", "find_target", "quantize_onnx"]
