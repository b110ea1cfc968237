"""What other libraries make of the same linear layers, as float32 by Hugging Face's names.

llama.cpp quantizes the whole file, so that its own mixes and fallbacks are what is judged (rows of
576 do not fit its blocks of 256); its importance matrix is what binq calibrates on. HQQ and
bitsandbytes take one matrix at a time. ``ROWS`` are those of the libraries that are installed.
"""

import ctypes
import importlib.util
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import binq

# llama.cpp's llama_ftype by name.
MIXES = {
    "Q4_0": 2,
    "Q4_K_M": 15,
    "IQ4_NL": 25,
    "Q3_K_M": 12,
    "IQ3_S": 26,
    "Q2_K": 10,
    "IQ2_XS": 20,
    "TQ2_0": 37,
    "Q1_0": 40,
}
Q8_0 = 8  # ggml_type of the embedding, which is the head too: as it is in the source
HQQ = {"HQQ int4 g64": 4, "HQQ int3 g64": 3, "HQQ int2 g64": 2}
NF4 = "bitsandbytes NF4 g64"


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


ROWS = (
    *(f"llama.cpp {mix}" for mix in MIXES if _installed("llama_cpp", "gguf")),
    *(row for row in HQQ if _installed("hqq", "torch")),
    *(row for row in (NF4,) if _installed("bitsandbytes", "torch")),
)


class RefusedError(Exception):
    """A library cannot hold this model."""


class Made(NamedTuple):
    """The linear layers of a rival, dequantized, and the bytes that it stores them in."""

    weights: dict[str, Any]
    nbytes: int
    note: str


def quantize(row: str, source: Path, model: Any, cal: Any) -> Made:
    """Returns what a rival makes of the layers that ``cal`` names, or raises RefusedError."""
    if row.startswith("llama.cpp"):
        return _llama(MIXES[row.split()[1]], source, cal)
    weights, nbytes = {}, 0
    for name in cal:
        one = _nf4 if row == NF4 else _hqq
        weights[name], size = one(np.asarray(model.tensors[name], np.float32), HQQ.get(row, 4))
        nbytes += size
    return Made(weights, nbytes, "")


def _llama(ftype: int, source: Path, cal: Any) -> Made:
    importance = {gguf_name(name): cal[name].mean_square.astype(np.float32) for name in cal}
    with tempfile.TemporaryDirectory() as folder:
        made, floats = Path(folder) / "made.gguf", Path(folder) / "floats.gguf"
        llama_file(source, made, ftype, importance)
        nbytes, note = _dequantize(made, floats, set(importance))
        tensors = binq.load(floats)
        return Made({name: np.asarray(tensors[name]) for name in cal}, nbytes, note)


def llama_file(source: Path, target: Path, ftype: int, importance: dict[str, np.ndarray]) -> None:
    """Writes what llama.cpp makes of a GGUF file, the importance by its names of tensors.

    Raises RefusedError where it does not hold this model.
    """
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = ftype
    parameters.allow_requantize = True
    parameters.token_embedding_type = Q8_0
    kinds = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(kinds, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), len(values)
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    parameters.imatrix = kinds
    code = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    if code:
        target.unlink(missing_ok=True)
        raise RefusedError("llama.cpp does not quantize rows of 576 to this type")


def gguf_name(name: str) -> str:
    """Returns llama.cpp's name of a linear layer of Llama's."""
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    _, _, layer, kind = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{parts[kind]}.weight"


def _dequantize(source: Path, target: Path, linear: set[str]) -> tuple[int, str]:
    """Writes a GGUF file of float32 tensors; returns bytes and types of the linear layers."""
    from ggml import LlamaCpp
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from quantize_rivals import ggml_dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "general.architecture", "general.quant")):
            continue
        kind, *items = field.types
        writer.add_key_value(
            key, field.contents(), kind, items[-1] if kind == GGUFValueType.ARRAY else None
        )
    LlamaCpp.library()
    nbytes, types = 0, Counter[str]()
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        floats = tensor.data
        if tensor.tensor_type.name != "F32":
            blob = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
            floats = ggml_dequantize(int(tensor.tensor_type), blob, shape)
        writer.add_tensor(tensor.name, np.asarray(floats, np.float32).reshape(shape))
        if tensor.name in linear:
            nbytes += int(tensor.n_bytes)
            types[tensor.tensor_type.name] += 1
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return nbytes, ", ".join(f"{count} {name}" for name, count in types.most_common())


def _hqq(w: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    import torch
    from hqq.core.quantize import Quantizer

    packed, meta = Quantizer.quantize(
        torch.from_numpy(w), nbits=bits, group_size=64, axis=1, device="cpu"
    )
    floats = Quantizer.dequantize(packed, meta).float().numpy()
    # Scales and zeros are stored as float16.
    return floats, w.size * bits // 8 + w.size // 64 * 4


def _nf4(w: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(torch.from_numpy(w), blocksize=64, quant_type="nf4")
    floats = dequantize_4bit(packed, state).float().numpy().reshape(w.shape)
    return floats, packed.numel() * packed.element_size() + w.size // 64 * 4
