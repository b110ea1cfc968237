"""A layer of the decoder as one compiled call, where all of its weights are packed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core, nn
from binq.array.array import QuantizedArray

Floats = NDArray[np.float32]


class PackedLayer:
    """A layer whose weights are packed: adds to rows of x what the layer makes of them.

    The bits are those of the decoder's own steps. One call takes the place of fifteen, and no
    thread falls asleep between two products.
    """

    def __init__(
        self,
        layer: dict[str, Any],
        heads: int,
        kv_heads: int,
        size: int,
        *,
        eps: float,
        window: int | None,
        activations: str,
    ) -> None:
        weights = [*layer["qkv"], *layer["o"], *layer["gate_up"], *layer["down"]]
        biases = [b for key in ("qkv", "o", "gate_up", "down") for b in layer[f"{key}_bias"]]
        norms = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
        self._native = _core.DecoderLayer(
            tuple(w._data.matrices()[0] for w in weights),
            tuple(None if b is None else np.asarray(b, np.float32) for b in biases),
            tuple(layer.get(name) for name in norms),
            heads,
            kv_heads,
            size,
            eps,
            size**-0.5,
            window or 0,
            _core.ACTIVATIONS[activations],
        )

    @staticmethod
    def takes(layer: dict[str, Any]) -> bool:
        """Returns whether the weights are packed, in the basis that the decoder's states have."""
        return all(
            isinstance(w, QuantizedArray) and w._data.packing.rotation is None
            for key in ("qkv", "o", "gate_up", "down")
            for w in layer[key]
        )

    def __call__(self, x: Floats, cos: Floats, sin: Floats, cache: nn.KeyValueCache) -> None:
        """Changes x ``(tokens, hidden)`` in place; adds its keys and values to the cache."""
        with cache._room(len(x)) as (keys, values, start):
            self._native.run(x, cos, sin, keys, values, start)
