"""Who is timed: each holds one model and makes tokens, behind the same four attributes.

    prompt(tokens)   begins anew with these tokens; returns the best next one
    step(token)      adds one token; returns the best next one
    missing          the modules that are not installed here; such a contestant is left out
    threads          is set when it is made

Rivals are imported where they are made: each runs in a process of its own, of the Python that has
it.
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Contestant:
    """What a process times."""

    modules: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def missing(cls) -> list[str]:
        return [name for name in cls.modules if importlib.util.find_spec(name) is None]

    def prompt(self, tokens: list[int]) -> int:
        raise NotImplementedError

    def step(self, token: int) -> int:
        raise NotImplementedError


class Binq(Contestant):
    """binq.run, as ``binq generate`` has it."""

    modules = ("binq",)

    def __init__(self, folder: Path, mode: str, threads: int) -> None:
        import binq
        from binq.run import Decoder

        binq.set_num_threads(threads)
        self.decoder = Decoder(folder, mode)

    def prompt(self, tokens: list[int]) -> int:
        for cache in self.decoder.caches:
            cache.truncate(0)
        return int(self.decoder(tokens).argmax())

    def step(self, token: int) -> int:
        return int(self.decoder([token]).argmax())


class LlamaCpp(Contestant):
    """llama.cpp by its C interface: the file has no vocabulary."""

    modules = ("llama_cpp",)

    def __init__(self, folder: Path, mode: str, threads: int) -> None:
        import llama_cpp as lib

        self.lib = lib
        self.log = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self.log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        settings = lib.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = lib.llama_model_load_from_file(str(folder / "model.gguf").encode(), settings)
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {folder / 'model.gguf'}")
        self.size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        context = lib.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = 1024, 512, 512
        context.n_threads = context.n_threads_batch = threads
        self.context = lib.llama_init_from_model(model, context)
        self.length = 0

    def prompt(self, tokens: list[int]) -> int:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        self.length = 0
        return self._decode(tokens)

    def step(self, token: int) -> int:
        return self._decode([token])

    def _decode(self, tokens: list[int]) -> int:
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.length + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(tokens) - 1
        failed = self.lib.llama_decode(self.context, batch)
        self.lib.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        self.length += len(tokens)
        logits = self.lib.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.size,)).argmax())


class Torch(Contestant):
    """transformers' class with random weights; ``mode`` is a dtype or a way to quantize."""

    modules = ("torch", "transformers")

    def __init__(self, folder: Path, mode: str, threads: int) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        config = AutoConfig.from_pretrained(folder)
        dtype = getattr(torch, mode, torch.float32)
        if mode == "torchao int4":
            dtype = torch.bfloat16
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model = model.to_empty(device="cpu").eval()
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.uniform_(parameter, -0.03, 0.03)
        # Of buffers there are the frequencies of the rotary embedding.
        rotary = model.model.rotary_emb
        model.model.rotary_emb = type(rotary)(config=config)
        model.tie_weights()
        self.model = self._quantized(model, mode)

    def _quantized(self, model: Any, mode: str) -> Any:
        torch = self.torch
        if mode == "dynamic int8":
            return torch.ao.quantization.quantize_dynamic(
                model, {torch.nn.Linear}, dtype=torch.qint8
            )
        return model

    def prompt(self, tokens: list[int]) -> int:
        self.past = None
        return self._run(tokens)

    def step(self, token: int) -> int:
        return self._run([token])

    def _run(self, tokens: list[int]) -> int:
        ids = self.torch.tensor([tokens])
        with self.torch.inference_mode():
            out = self.model(ids, past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return int(out.logits[0, -1].argmax())


class TorchAo(Torch):
    """torchao: its int8 for both sides, or the int4 weights of its prototype."""

    modules = ("torch", "transformers", "torchao")

    def _quantized(self, model: Any, mode: str) -> Any:
        from torchao.quantization import quantize_

        if mode == "torchao int4":
            from torchao.prototype.quantization.int4 import inference_workflow

            config = inference_workflow.PrototypeInt4WeightOnlyConfig(group_size=128)
        else:
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig

            config = Int8DynamicActivationInt8WeightConfig()
        quantize_(model, config)
        return model


class BitsAndBytes(Torch):
    """bitsandbytes' nf4, float32 between."""

    modules = ("torch", "transformers", "bitsandbytes")

    def _quantized(self, model: Any, mode: str) -> Any:
        import bitsandbytes

        linear = self.torch.nn.Linear
        for name, module in list(model.named_modules()):
            if isinstance(module, linear) and not name.endswith("lm_head"):
                small = bitsandbytes.nn.Linear4bit(
                    module.in_features,
                    module.out_features,
                    bias=False,
                    compute_dtype=self.torch.float32,
                    quant_type="nf4",
                )
                small.load_state_dict(module.state_dict())
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, small.to("cpu"))
        return model


CLASSES: dict[str, type[Contestant]] = {
    "binq": Binq,
    "llama.cpp": LlamaCpp,
    "torch": Torch,
    "torchao": TorchAo,
    "bitsandbytes": BitsAndBytes,
}


def resident() -> int:
    """Returns the bytes of memory that this process holds now, mapped files among them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


def version(library: str) -> str:
    from importlib.metadata import version

    names = {"llama.cpp": "llama-cpp-python"}
    if library == "binq":
        import binq

        return binq.__version__
    return version(names.get(library, library))


def main() -> None:
    """Answers each line ``PROMPT NEW``: ``contestants.py LIBRARY FOLDER MODE THREADS``."""
    import time

    library, folder, mode, threads = sys.argv[1:]
    kind = CLASSES[library]
    if kind.missing():
        print(json.dumps({"missing": kind.missing()}), flush=True)
        return
    contestant = kind(Path(folder), mode, int(threads))
    print(json.dumps({"version": version(library)}), flush=True)
    for line in sys.stdin:
        length, count = map(int, line.split())
        tokens = np.random.default_rng(1).integers(3, 1000, length).tolist()
        start = time.perf_counter()
        token = contestant.prompt(tokens)
        seconds = [time.perf_counter() - start]
        for _ in range(count):
            start = time.perf_counter()
            token = contestant.step(token)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "resident": resident()}), flush=True)


if __name__ == "__main__":
    main()
