"""Quantizes a model layer by layer, each calibrated on what the quantized layers before it give.

    python examples/calibrate.py SRC TOKENS.npy DST --format int4 --group-size 64
    python examples/calibrate.py SRC TOKENS.npy DST.safetensors --collect

SRC is a folder or GGUF file of a dense Llama- or Qwen-shaped decoder or of a BERT-shaped encoder,
TOKENS an integer array (sequences, tokens), where -1 pads. numpy and binq do all of it, in the
memory of one layer: torch is not needed.

Two streams run side by side, one through the float layers and one through the quantized ones. With
x of the first and x' of the second, the weights that are rounded are W·C·H⁻¹, C the mean of x·x'ᵀ
and H that of x'·x'ᵀ: they make up for the errors of the layers before (GPTAQ, arXiv 2504.02692).

--collect writes a calibration instead, for ``binq quantize --calibration``: what enters each layer,
and what the model loses with that layer alone in three bits, by which ``--target-bpw`` spends bits.
That takes a pass of one batch through half of the model for each weight.
"""

import argparse
import json
import shutil
from collections import ChainMap
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from scipy.linalg import solve
from scipy.special import erf

import binq

Arrays = Mapping[str, Any]
# A layer: yields names of weights and their common input, takes the outputs back.
Steps = Generator[tuple[tuple[str, ...], np.ndarray], list[np.ndarray], np.ndarray]
# The same of all batches.
Stage = tuple[tuple[str, ...], list[np.ndarray]]
EMBEDDING = "model.embed_tokens.weight"
BITS = {"ternary": 2, "int2": 2, "int3": 3, "int4": 4, "iq4nl": 4, "mxfp4": 4}
DAMPING = {2: 0.1, 3: 0.05, 4: 0.03}


@dataclass
class Decoder:
    """A dense decoder with RMS norms, rotary positions and gated feed-forward layers."""

    tensors: Arrays
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    theta: float

    bias = False

    @classmethod
    def of(cls, tensors: Any) -> "Decoder":
        c = {**tensors.config, **tensors.metadata}
        kind = c.get("general.architecture")
        if kind:
            get = lambda key, default=None: c.get(f"{kind}.{key}", default)  # noqa: E731
            heads, width = get("attention.head_count"), get("embedding_length")
            sizes = (get("block_count"), heads, get("attention.head_count_kv", heads))
            head_size = get("attention.key_length", width // heads)
            epsilon = get("attention.layer_norm_rms_epsilon")
            theta, scaling = get("rope.freq_base", 1e4), get("rope.scaling.type")
        else:
            heads, width = c["num_attention_heads"], c["hidden_size"]
            sizes = (c["num_hidden_layers"], heads, c.get("num_key_value_heads", heads))
            head_size = c.get("head_dim") or width // heads
            epsilon = c.get("rms_norm_eps", 1e-6)
            rope = c.get("rope_parameters") or {}
            theta = rope.get("rope_theta", c.get("rope_theta", 1e4))
            scaling = c.get("rope_scaling") or rope.get("rope_type", "default") != "default"
        if scaling not in (None, False, "none"):
            raise SystemExit(f"scaled rotary positions are not supported: {scaling}")
        return cls(tensors, *sizes, head_size, epsilon, theta)

    def embed(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(self.tensors[EMBEDDING], np.float32)[np.maximum(ids, 0)]

    def layer(self, number: int, h: np.ndarray, kept: np.ndarray) -> Steps:
        name = f"model.layers.{number}."
        batch, length, _ = h.shape
        x = self.norm(h, name + "input_layernorm")
        attention = name + "self_attn."
        q, k, v = yield tuple(f"{attention}{part}_proj.weight" for part in "qkv"), x
        q, k, v = (y.reshape(batch, length, -1, self.head_size).swapaxes(1, 2) for y in (q, k, v))
        if attention + "q_norm.weight" in self.tensors:
            q, k = self.norm(q, attention + "q_norm"), self.norm(k, attention + "k_norm")
        q, k = self.turn(q), self.turn(k)
        k, v = (np.repeat(y, self.heads // self.kv_heads, axis=1) for y in (k, v))
        seen = np.tri(length, dtype=bool) & kept[:, np.newaxis, np.newaxis, :]
        mixed = attend(q, k, v, seen)
        (y,) = yield (attention + "o_proj.weight",), mixed
        h = h + y
        x = self.norm(h, name + "post_attention_layernorm")
        gate, up = yield (name + "mlp.gate_proj.weight", name + "mlp.up_proj.weight"), x
        (y,) = yield (name + "mlp.down_proj.weight",), gate / (1 + np.exp(-gate)) * up
        return h + y

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.epsilon))
        return x * scale * np.asarray(self.tensors[f"{name}.weight"], np.float32)

    def turn(self, x: np.ndarray) -> np.ndarray:
        half = self.head_size // 2
        angles = np.arange(x.shape[2])[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)

    def finish(self, h: np.ndarray) -> np.ndarray:
        return self.norm(h, "model.norm")

    def predictions(self, h: np.ndarray) -> np.ndarray:
        """Returns the logarithms of the probabilities of all tokens."""
        head = "lm_head.weight" if "lm_head.weight" in self.tensors else EMBEDDING
        z = self.finish(h) @ np.asarray(self.tensors[head], np.float32).T
        z -= z.max(axis=-1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
        return z

    @staticmethod
    def lost(exact: np.ndarray, ours: np.ndarray) -> np.ndarray:
        """Returns the divergence of one prediction from another, in nats a token."""
        return (np.exp(exact) * (exact - ours)).sum(axis=-1)


@dataclass
class Encoder:
    """A BERT: layer norms after each part, biases everywhere."""

    tensors: Arrays
    prefix: str
    layers: int
    heads: int
    epsilon: float

    bias = True

    @classmethod
    def of(cls, tensors: Any) -> "Encoder":
        c = tensors.config
        if c.get("hidden_act") != "gelu" or c.get("position_embedding_type", "absolute") != (
            "absolute"
        ):
            raise SystemExit("only BERT with gelu and absolute positions is supported")
        prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
        sizes = c["num_hidden_layers"], c["num_attention_heads"]
        return cls(tensors, prefix, *sizes, c["layer_norm_eps"])

    def embed(self, ids: np.ndarray) -> np.ndarray:
        words, places, types = (
            np.asarray(self.tensors[f"{self.prefix}embeddings.{name}.weight"], np.float32)
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        )
        x = words[np.maximum(ids, 0)] + places[: ids.shape[1]] + types[0]
        return self.norm(x, f"{self.prefix}embeddings.LayerNorm")

    def layer(self, number: int, h: np.ndarray, kept: np.ndarray) -> Steps:
        name = f"{self.prefix}encoder.layer.{number}."
        batch, length, _ = h.shape
        parts = tuple(f"{name}attention.self.{p}.weight" for p in ("query", "key", "value"))
        q, k, v = yield parts, h
        q, k, v = (y.reshape(batch, length, self.heads, -1).swapaxes(1, 2) for y in (q, k, v))
        mixed = attend(q, k, v, kept[:, np.newaxis, np.newaxis, :])
        (y,) = yield (f"{name}attention.output.dense.weight",), mixed
        h = self.norm(h + y, f"{name}attention.output.LayerNorm")
        (y,) = yield (f"{name}intermediate.dense.weight",), h
        x = (y * (0.5 + 0.5 * erf(y / np.float32(np.sqrt(2))))).astype(np.float32)
        (y,) = yield (f"{name}output.dense.weight",), x
        return self.norm(h + y, f"{name}output.LayerNorm")

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(self.epsilon))
        weight, bias = (np.asarray(self.tensors[f"{name}.{p}"]) for p in ("weight", "bias"))
        return x * weight + bias

    def finish(self, h: np.ndarray) -> np.ndarray:
        return h

    def predictions(self, h: np.ndarray) -> np.ndarray:
        return h / np.linalg.norm(h, axis=-1, keepdims=True)

    @staticmethod
    def lost(exact: np.ndarray, ours: np.ndarray) -> np.ndarray:
        """Returns what each token's cosine lacks."""
        return 1 - (exact * ours).sum(axis=-1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Returns what each token takes of the ones it sees, heads side by side."""
    scores = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))
    scores = np.where(seen, scores, np.float32(-1e9))
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    return mixed.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)


def model_of(tensors: Any) -> Decoder | Encoder:
    return (
        Encoder.of(tensors) if tensors.config.get("model_type") == "bert" else Decoder.of(tensors)
    )


def bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def product(x: np.ndarray, w: Any, bias: Any) -> np.ndarray:
    """Returns ``x @ w.T + bias``, by binq's kernels where w is packed."""
    packed = isinstance(w, binq.QuantizedArray)
    y = binq.linear(x, w) if packed else x @ np.asarray(w, np.float32).T
    return y if bias is None else y + np.asarray(bias, np.float32)


class Stream:
    """All batches at one layer of a model, and the inputs that its weights meet there."""

    def __init__(self, model: Decoder | Encoder, batches: list[np.ndarray]) -> None:
        self.model = model
        self.kept = [ids >= 0 for ids in batches]
        self.h = [model.embed(ids) for ids in batches]

    def begin(self, number: int) -> Stage | None:
        self._steps = [
            self.model.layer(number, h, kept) for h, kept in zip(self.h, self.kept, strict=True)
        ]
        return self._send([None] * len(self.h))

    def go_on(self, stage: Stage, weights: Arrays) -> Stage | None:
        names, inputs = stage
        return self._send(
            [[product(x, weights[n], weights.get(bias_of(n))) for n in names] for x in inputs]
        )

    def through(self, number: int, weights: Arrays) -> list[str]:
        """Takes the batches through a layer; returns the names of its weights."""
        names: list[str] = []
        stage = self.begin(number)
        while stage is not None:
            names += stage[0]
            stage = self.go_on(stage, weights)
        return names

    def rows(self, stage: Stage) -> np.ndarray:
        """Returns what is no padding, ``(tokens, in_features)``."""
        return np.concatenate([x[kept] for x, kept in zip(stage[1], self.kept, strict=True)])

    def _send(self, outputs: list[Any]) -> Stage | None:
        names: tuple[str, ...] = ()
        inputs = []
        for i, (steps, given) in enumerate(zip(self._steps, outputs, strict=True)):
            try:
                names, x = steps.send(given)
                inputs.append(x)
            except StopIteration as end:
                self.h[i] = end.value
        return (names, inputs) if inputs else None


def run(
    model: Decoder | Encoder,
    batches: list[np.ndarray],
    weights: Arrays,
    see: Callable[[tuple[str, ...], np.ndarray], None] | None = None,
) -> list[np.ndarray]:
    """Returns what the last layer gives for each batch, with other weights than the model's."""
    stream = Stream(model, batches)
    for number in range(model.layers):
        stage = stream.begin(number)
        while stage is not None:
            if see is not None:
                see(stage[0], stream.rows(stage))
            stage = stream.go_on(stage, weights)
    return [model.finish(h) for h in stream.h]


def collect(model: Decoder | Encoder, batches: list[np.ndarray]) -> binq.Calibrator:
    """Returns the moments of the inputs of all layers, from one pass through the float model."""
    cal = binq.Calibrator()
    run(model, batches, model.tensors, cal.update)
    return cal


def measure(model: Decoder | Encoder, batches: list[np.ndarray], cal: binq.Calibrator) -> None:
    """Tells the calibration what the model loses with each layer alone in int3, groups of 64."""
    floats = Stream(model, batches)
    begun, names = [], []
    for number in range(model.layers):
        begun.append(list(floats.h))
        names.append(floats.through(number, model.tensors))
    exact = [model.predictions(h) for h in floats.h]
    for number in range(model.layers):
        for name in names[number]:
            w = np.asarray(model.tensors[name], np.float32)
            q = binq.quantize(w, "int3", group_size=64, method="gptq", stats=cal[name])
            stream = Stream(model, batches)
            stream.h = list(begun[number])
            for later in range(number, model.layers):
                stream.through(later, ChainMap({name: q.dequantize()}, model.tensors))
            lost = [
                model.lost(p, model.predictions(h))[kept]
                for p, h, kept in zip(exact, stream.h, stream.kept, strict=True)
            ]
            cal.set_sensitivity(name, max(0.0, float(np.concatenate(lost).mean())))


def sequential(
    model: Decoder | Encoder, batches: list[np.ndarray], format: str, group_size: int
) -> Iterator[dict[str, Any]]:
    """Yields the quantized weights and the corrected biases of one layer after the other."""
    floats, packed = Stream(model, batches), Stream(model, batches)
    for number in range(model.layers):
        made: dict[str, Any] = {}
        exact, seen = floats.begin(number), packed.begin(number)
        while exact is not None and seen is not None:
            x, y = floats.rows(exact), packed.rows(seen)
            cal = binq.Calibrator()
            cal.update("x", y)
            for name in exact[0]:
                bias = model.tensors.get(bias_of(name))
                made |= quantized(
                    name, model.tensors[name], bias, x, cal["x"], y, format, group_size
                )
            exact = floats.go_on(exact, model.tensors)
            seen = packed.go_on(seen, ChainMap(made, model.tensors))
        yield made


def quantized(
    name: str,
    w: np.ndarray,
    bias: np.ndarray | None,
    x: np.ndarray,
    stats: Any,
    y: np.ndarray,
    format: str,
    group_size: int,
) -> dict[str, Any]:
    """Returns a weight that makes of y what w makes of x, and its bias if it has one."""
    centred = bias is not None
    x_mean, y_mean = x.mean(axis=0, dtype=np.float64), stats.mean.astype(np.float64)
    together = x.T.astype(np.float64) @ y / len(x)
    moments = stats.covariance.astype(np.float64) if centred else stats.second_moment()
    if centred:
        together -= np.outer(x_mean, y_mean)
    damping = DAMPING[BITS[format]] * moments.diagonal().mean() * np.eye(len(moments))
    turn = solve(moments + damping, (together + damping).T, assume_a="pos").T
    target = (np.asarray(w, np.float64) @ turn).astype(np.float32)
    if not centred:
        return {
            name: binq.quantize(target, format, group_size=group_size, method="gptq", stats=stats)
        }
    q, _ = binq.quantize(
        target, format, group_size=group_size, method="gptq", stats=stats, return_bias=True
    )
    lost = np.asarray(w, np.float64) @ x_mean - q.dequantize(np.float64) @ y_mean
    return {name: q, bias_of(name): (bias + lost).astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("src", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument("--format", default="int4", choices=sorted(BITS))
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="sequences that run side by side")
    parser.add_argument("--collect", action="store_true", help="write a calibration")
    options = parser.parse_args()
    tensors = binq.load(options.src)
    model = model_of(tensors)
    ids = np.load(options.tokens)
    batches = [ids[i : i + options.batch] for i in range(0, len(ids), options.batch)]
    if options.collect:
        cal = collect(model, batches)
        measure(model, batches[:1], cal)
        cal.save(options.dst)
        return
    options.dst.mkdir(parents=True)
    places: dict[str, str] = {}

    def write(part: dict[str, Any]) -> None:
        file = f"model-{len(set(places.values())) + 1:05d}.safetensors"
        binq.save_file(part, options.dst / file)
        with safe_open(options.dst / file, "numpy") as written:
            places.update(dict.fromkeys(written.keys(), file))

    done: set[str] = set()
    for number, made in enumerate(sequential(model, batches, options.format, options.group_size)):
        write(made)
        done |= set(made)
        print(f"layer {number + 1} of {model.layers}", flush=True)
    write({name: np.asarray(tensors[name]) for name in tensors if name not in done})
    index = {"metadata": {}, "weight_map": places}
    (options.dst / "binq.safetensors.index.json").write_text(json.dumps(index, indent=1))
    # A GGUF file holds its configuration itself; it stays there.
    for path in options.src.iterdir() if options.src.is_dir() else ():
        if path.suffix in (".json", ".txt", ".model") and ".index." not in path.name:
            shutil.copy(path, options.dst / path.name)


if __name__ == "__main__":
    main()
