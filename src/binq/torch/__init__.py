"""binq in PyTorch: linear layers, embeddings and experts with packed weights, on the CPU.

>>> import torch, binq.torch
>>> model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU())
>>> model = binq.torch.quantize_(model, "int4")
>>> model(torch.ones(2, 256)).shape
torch.Size([2, 512])

Where transformers is installed, its from_pretrained loads folders that ``binq quantize`` wrote,
from this import on.
"""

from importlib.util import find_spec
from typing import Any

from binq.torch.live import quantize_
from binq.torch.modules import QuantizedEmbedding, QuantizedLinear, set_activations

if find_spec("transformers"):
    from binq.torch.plugin import load
else:

    def load(  # type: ignore[misc]
        folder: Any, **arguments: Any
    ) -> Any:
        """Raises ImportError: transformers has the classes of models."""
        raise ImportError("binq.torch.load needs transformers: pip install 'binq[torch]'")


__all__ = ["QuantizedEmbedding", "QuantizedLinear", "load", "quantize_", "set_activations"]
