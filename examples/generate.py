"""Generate text from a packed folder or a GGUF file, in numpy: no PyTorch.

    python examples/generate.py MODEL "Why is the sky blue?"
        [--new N] [--temperature T] [--top-p P] [--seed S] [--activations MODE] [--raw]

MODEL is a Qwen 2 or 3, a Llama or Mistral, or a Bonsai: what `binq quantize` wrote, a GGUF file, or
a folder of MLX or of plain safetensors. What no packing holds exactly runs as floats. The prompt
goes through the model's chat template (jinja2), unless --raw is said, and its tokenizer
(`pip install tokenizers`). Text appears as it is made; the tokens a second follow.
`--ids 1,2,3` takes a prompt of token ids instead and prints ids: no tokenizer is needed.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import binq
from binq import nn

Floats = NDArray[np.float32]
FAMILIES = {"qwen2", "qwen3", "llama", "mistral"}
CHUNK = 256  # tokens of a prompt at a time: bounds the memory of attention


def read_json(model: Any, name: str) -> dict[str, Any]:
    """Returns the contents of a JSON file beside the weights of a model; {} for none."""
    found: dict[str, Any] = json.loads(model.text(name) or "{}")
    return found


class Rotation:
    """Rotary position embedding: pairs of numbers turned by angles that grow with the position."""

    def __init__(self, config: dict[str, Any], size: int) -> None:
        said = config.get("rope_parameters") or config.get("rope_scaling") or {}
        base = said.get("rope_theta") or config.get("rope_theta", 10000.0)
        kind = said.get("rope_type") or said.get("type") or "default"
        self.scale = 1.0
        self.frequencies = 1.0 / base ** (np.arange(0, size, 2) / size)
        if kind == "linear":
            self.frequencies /= said["factor"]
        elif kind == "llama3":
            self._llama3(said)
        elif kind == "yarn":
            self._yarn(said, base, size, config.get("max_position_embeddings", 0))
        elif kind != "default":
            raise SystemExit(f"rotary embeddings of type {kind!r} are not known here")

    def _llama3(self, said: dict[str, Any]) -> None:
        low, high = said["low_freq_factor"], said["high_freq_factor"]
        turns = said["original_max_position_embeddings"] * self.frequencies / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        self.frequencies *= kept + (1 - kept) / said["factor"]

    def _yarn(self, said: dict[str, Any], base: float, size: int, longest: int) -> None:
        if said.keys() & {"mscale", "mscale_all_dim"}:
            raise SystemExit("rotary embeddings of type 'yarn' with mscale are not known here")
        original = said.get("original_max_position_embeddings") or longest

        def pair(turns: float) -> float:
            return float(size * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base)))

        low, high = pair(said.get("beta_fast") or 32), pair(said.get("beta_slow") or 1)
        if said.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high += 0.001 if low == high else 0
        kept = 1 - np.clip((np.arange(size // 2) - low) / (high - low), 0, 1)
        self.frequencies *= kept + (1 - kept) / said["factor"]
        self.scale = said.get("attention_factor") or 0.1 * np.log(said["factor"]) + 1

    def at(self, start: int, count: int) -> tuple[Floats, Floats]:
        """Returns cosines and sines of positions, ``(count, size / 2)`` each."""
        angles = np.outer(np.arange(start, start + count), self.frequencies)
        cos, sin = np.cos(angles) * self.scale, np.sin(angles) * self.scale
        return cos.astype(np.float32), sin.astype(np.float32)


class Decoder:
    """A decoder of one sequence: calling it adds tokens and returns the logits of the last."""

    def __init__(self, path: str | Path, activations: Any = "int16") -> None:
        self.activations = activations
        self.model = w = binq.load(path)  # nothing is read yet
        self.config = c = dict(w.config)
        if c.get("model_type") not in FAMILIES or c.get("use_sliding_window"):
            raise SystemExit(f"{path}: {c.get('model_type')!r} is not among {sorted(FAMILIES)}")
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.size = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c.get("rms_norm_eps", 1e-6)
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
        return layer

    def __call__(self, tokens: list[int]) -> Floats:
        """Returns the logits ``(vocabulary,)`` that follow the tokens, after all before them."""
        for start in range(0, len(tokens), CHUNK):
            x = self._states(tokens[start : start + CHUNK])
        return self._linear(nn.rms_norm(x[-1:], self.norm, self.eps), [self.head], [None])[0][0]

    def _states(self, tokens: list[int]) -> Floats:
        x = np.array(self.embeddings[tokens], np.float32)
        cos, sin = self.rotation.at(len(self.caches[0]), len(tokens))
        for layer, cache in zip(self.layers, self.caches, strict=True):
            h = nn.rms_norm(x, layer["input_layernorm"], self.eps)
            h = self._attention(h, layer, cache, cos, sin)
            x += self._linear(h, layer["o"], layer["o_bias"])[0]
            h = nn.rms_norm(x, layer["post_attention_layernorm"], self.eps)
            gate, up = self._linear(h, layer["gate_up"], layer["gate_up_bias"])
            x += self._linear(nn.silu_mul(gate, up), layer["down"], layer["down_bias"])[0]
        return x

    def _attention(
        self, h: Floats, layer: dict[str, Any], cache: nn.KeyValueCache, cos: Floats, sin: Floats
    ) -> Floats:
        ys = self._linear(h, layer["qkv"], layer["qkv_bias"])
        q, k, v = (y.reshape(len(h), -1, self.size) for y in ys)
        if "q_norm" in layer:
            q = nn.rms_norm(q, layer["q_norm"], self.eps)
            k = nn.rms_norm(k, layer["k_norm"], self.eps)
        cache.append(nn.rope(k, cos, sin), v)
        return cache.attention(nn.rope(q, cos, sin)).reshape(len(h), -1)

    def _linear(self, x: Floats, weights: list[Any], biases: list[Any]) -> list[Floats]:
        """Returns the products of x with several weights, packed or kept as floats."""
        if all(isinstance(w, binq.QuantizedArray) for w in weights):
            return binq.linear(x, weights, biases, self.activations)
        return [
            x @ np.asarray(w, np.float32).T + np.asarray(0 if b is None else b, np.float32)
            for w, b in zip(weights, biases, strict=True)
        ]


def choose(logits: Floats, temperature: float, top_p: float, rng: np.random.Generator) -> int:
    """Returns the best token, or one of the likeliest that make up top_p, by chance."""
    if temperature == 0:
        return int(logits.argmax())
    likely = np.argsort(-logits)
    p = nn.softmax(logits[likely] / np.float32(temperature)).astype(np.float64)
    p = p[: int(np.searchsorted(p.cumsum(), top_p)) + 1]
    return int(likely[rng.choice(len(p), p=p / p.sum())])


def generate(
    decoder: Decoder, prompt: list[int], count: int, stop: set[Any], sampling: dict[str, Any]
) -> Iterator[tuple[int, float]]:
    """Yields tokens and the seconds that each took, the first with those of the prompt."""
    rng = np.random.default_rng(sampling["seed"])
    tokens = prompt
    for _ in range(count):
        start = time.perf_counter()
        token = choose(decoder(tokens), sampling["temperature"], sampling["top_p"], rng)
        yield token, time.perf_counter() - start
        if token in stop:
            return
        tokens = [token]


def templated(model: Any, prompt: str) -> str:
    """Returns the prompt as the model's chat template puts it; as it is where there is none."""
    settings = read_json(model, "tokenizer_config.json")
    template = model.text("chat_template.jinja") or settings.get("chat_template")
    if not isinstance(template, str):
        return prompt
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in settings.items()
        if name.endswith("_token") and value
    }
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["strftime_now"] = time.strftime
    text: str = environment.from_string(template).render(
        messages=[{"role": "user", "content": prompt}], add_generation_prompt=True, **special
    )
    return text


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--ids", help="token ids instead of a prompt, separated by commas")
    parser.add_argument("--new", type=int, default=256, help="tokens to make at most")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the best token always")
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--activations", default="int16", choices=("float32", "int16", "int8"))
    parser.add_argument("--raw", action="store_true", help="no chat template")
    given = parser.parse_args(words)
    decoder = Decoder(given.model, given.activations)
    settings = read_json(decoder.model, "generation_config.json")
    said = settings.get("eos_token_id", decoder.config.get("eos_token_id"))
    stop = set(said) if isinstance(said, list) else {said}
    tokenizer: Any = None
    if given.ids is None:
        from tokenizers import Tokenizer

        described = decoder.model.text("tokenizer.json")
        if described is None:
            raise SystemExit(f"{given.model} has no tokenizer.json: put the model's own there")
        tokenizer = Tokenizer.from_str(described)
        text = given.prompt if given.raw else templated(decoder.model, given.prompt)
        # A template has written its own special tokens.
        prompt = tokenizer.encode(text, add_special_tokens=text == given.prompt).ids
    else:
        prompt = [int(number) for number in given.ids.split(",")]
    made: list[int] = []
    seconds: list[float] = []
    printed = ""
    sampling = {"temperature": given.temperature, "top_p": given.top_p, "seed": given.seed}
    for token, took in generate(decoder, prompt, given.new, stop, sampling):
        seconds.append(took)
        made.append(token)
        if tokenizer is None:
            print(token, end=" ", flush=True)
        elif not (text := tokenizer.decode(made)).endswith("\ufffd"):  # half a character
            print(text[len(printed) :], end="", flush=True)
            printed = text
    rest = seconds[1:] or [float("nan")]
    speed = f"{len(prompt)} tokens of prompt: {len(prompt) / seconds[0]:.1f} a second"
    speed += f"; {len(made)} made: {len(rest) / sum(rest):.1f} a second"
    print(f"\n\n{speed}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
