"""The old name of :mod:`binq.convert`, kept for one version."""

from binq.convert import (
    Checkpoint,
    Report,
    TensorReport,
    logical_tensors,
    quantize_checkpoint,
)

__all__ = ["Checkpoint", "Report", "TensorReport", "logical_tensors", "quantize_checkpoint"]
