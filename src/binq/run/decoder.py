"""A decoder of one sequence on packed weights: Qwen 2 and 3, Llama, Mistral, Bonsai."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import nn
from binq.array.array import QuantizedArray
from binq.array.linear import linear
from binq.errors import UnsupportedFormatError
from binq.loading import load
from binq.run.layer import PackedLayer
from binq.run.rotation import Rotation

Floats = NDArray[np.float32]
FAMILIES = {"qwen2", "qwen3", "llama", "mistral"}
CHUNK = 256  # tokens of a prompt at a time: bounds the memory of attention


class Decoder:
    """A decoder of one sequence: calling it adds tokens and returns the logits of the last."""

    def __init__(self, path: str | PathLike[str], activations: Any = "int16") -> None:
        self.activations = activations
        self.model = w = load(path)  # nothing is read yet
        self.config = c = dict(w.config)
        if c.get("model_type") not in FAMILIES or c.get("use_sliding_window"):
            raise UnsupportedFormatError(
                f"{path}: {c.get('model_type')!r} is not among {sorted(FAMILIES)}: transformers "
                "runs it, after import binq.torch"
            )
        if c.get("hidden_act", "silu") != "silu":
            raise UnsupportedFormatError(f"{path}: hidden_act must be silu, got {c['hidden_act']}")
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.size = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c.get("rms_norm_eps", 1e-6)
        # Qwen's files name a window too, which use_sliding_window turns on.
        self.window = c.get("sliding_window") if c["model_type"] == "mistral" else None
        self.rotation = Rotation(c, self.size)
        self.embeddings = w["model.embed_tokens.weight"]
        self.head = w.get("lm_head.weight", self.embeddings)
        self.norm = w["model.norm.weight"].astype(np.float32)
        self.layers = [self._layer(w, f"model.layers.{n}.") for n in range(c["num_hidden_layers"])]
        self.caches = [nn.KeyValueCache(self.kv_heads, self.size) for _ in self.layers]

    def _layer(self, w: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        layer: dict[str, Any] = {}
        for key, names in {
            "qkv": [f"self_attn.{n}_proj" for n in "qkv"],
            "o": ["self_attn.o_proj"],
            "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
            "down": ["mlp.down_proj"],
        }.items():
            layer[key] = [w[f"{prefix}{name}.weight"] for name in names]
            layer[f"{key}_bias"] = [w.get(f"{prefix}{name}.bias") for name in names]
        norms = ["self_attn.q_norm", "self_attn.k_norm"]
        for name in ["input_layernorm", "post_attention_layernorm", *norms]:
            if (norm := w.get(f"{prefix}{name}.weight")) is not None:
                layer[name.rpartition(".")[2]] = norm.astype(np.float32)
        if PackedLayer.takes(layer):
            sizes = self.heads, self.kv_heads, self.size
            said: dict[str, Any] = {"eps": self.eps, "window": self.window}
            layer["whole"] = PackedLayer(layer, *sizes, activations=self.activations, **said)
        return layer

    @property
    def room(self) -> int:
        """Returns for how many tokens of a sequence the model was made."""
        return int(self.config.get("max_position_embeddings") or 1 << 31)

    def __call__(self, tokens: list[int]) -> Floats:
        """Returns the logits ``(vocabulary,)`` that follow the tokens, after all before them.

        Raises ValueError for no tokens and for one that the vocabulary does not have.
        """
        most = len(self.embeddings) - 1
        wrong = [token for token in tokens if not 0 <= token <= most]
        if wrong or not len(tokens):
            got = wrong[0] if wrong else "none"
            raise ValueError(f"tokens must be 1 or more from 0 to {most}, got {got}")
        for start in range(0, len(tokens), CHUNK):
            x = self._states(tokens[start : start + CHUNK])
        h = nn.rms_norm(x[-1:], self.norm, self.eps)
        logits: Floats = self._linear(h, [self.head], [None])[0][0]
        return logits

    def _states(self, tokens: list[int]) -> Floats:
        rows: Any = self.embeddings[tokens]
        if isinstance(rows, QuantizedArray):
            rows = rows.dequantize()
        x = np.array(rows, np.float32)
        cos, sin = self.rotation.at(len(self.caches[0]), len(tokens))
        for layer, cache in zip(self.layers, self.caches, strict=True):
            if "whole" in layer:
                layer["whole"](x, cos, sin, cache)
            else:
                self._steps(x, layer, cache, cos, sin)
        return x

    def _steps(
        self, x: Floats, layer: dict[str, Any], cache: nn.KeyValueCache, cos: Floats, sin: Floats
    ) -> None:
        """Adds to x what a layer makes of it; a PackedLayer does the same, as one call."""
        h = nn.rms_norm(x, layer["input_layernorm"], self.eps)
        h = self._attention(h, layer, cache, cos, sin)
        x += self._linear(h, layer["o"], layer["o_bias"])[0]
        h = nn.rms_norm(x, layer["post_attention_layernorm"], self.eps)
        gate, up = self._linear(h, layer["gate_up"], layer["gate_up_bias"])
        x += self._linear(nn.silu_mul(gate, up), layer["down"], layer["down_bias"])[0]

    def _attention(
        self, h: Floats, layer: dict[str, Any], cache: nn.KeyValueCache, cos: Floats, sin: Floats
    ) -> Floats:
        ys = self._linear(h, layer["qkv"], layer["qkv_bias"])
        q, k, v = (y.reshape(len(h), -1, self.size) for y in ys)
        if "q_norm" in layer:
            q = nn.rms_norm(q, layer["q_norm"], self.eps)
            k = nn.rms_norm(k, layer["k_norm"], self.eps)
        cache.append(nn.rope(k, cos, sin), v)
        q = nn.rope(q, cos, sin)
        return cache.attention(q, window=self.window).reshape(len(h), -1)

    def _linear(self, x: Floats, weights: list[Any], biases: list[Any]) -> list[Floats]:
        """Returns the products of x with several weights, packed or kept as floats."""
        if len(weights) > 1 and all(isinstance(w, QuantizedArray) for w in weights):
            return linear(x, weights, biases, self.activations)
        return [self._product(x, w, b) for w, b in zip(weights, biases, strict=True)]

    def _product(self, x: Floats, w: Any, bias: Any) -> Floats:
        if isinstance(w, QuantizedArray):
            return linear(x, w, bias, self.activations)
        y: Floats = x @ np.asarray(w, np.float32).T
        return y if bias is None else y + np.asarray(bias, np.float32)
