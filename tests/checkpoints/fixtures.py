"""Writers of tiny checkpoints in the layouts that models are published in, with numpy alone.

Every writer fills a folder and returns a :class:`Written`: the float32 values of each logical
tensor, computed from the codes and scales that were packed and never from the packed bytes, and
which of them the family's policy quantizes.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

BF16 = ml_dtypes.bfloat16
F8 = ml_dtypes.float8_e4m3fn
F16 = np.float16
F32 = np.float32
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)


@dataclass
class Written:
    """A checkpoint that was written: where, what its weights are, and what is quantized."""

    path: Path
    values: dict[str, np.ndarray] = field(default_factory=dict)
    quantized: set[str] = field(default_factory=set)
    stored: dict[str, np.ndarray] = field(default_factory=dict)

    def plain(self, name: str, shape: tuple[int, ...], dtype: Any = BF16, *, scale=0.1) -> None:
        """Adds a float tensor that is kept."""
        self.put(name, np.asarray(floats(name, shape) * scale).astype(dtype))

    def put(self, name: str, array: np.ndarray) -> None:
        """Adds a float tensor of given values that is kept."""
        self.stored[name] = array
        self.values[name] = array.astype(F32)

    def linear(self, name: str, shape: tuple[int, ...], dtype: Any = BF16) -> None:
        """Adds a float matrix that is quantized."""
        self.plain(name, shape, dtype)
        self.quantized.add(name)

    def packed(self, name: str, values: np.ndarray, parts: Mapping[str, np.ndarray]) -> None:
        """Adds a weight of given values that is quantized, and the tensors that store it."""
        self.values[name] = np.asarray(values, F32)
        self.quantized.add(name)
        self.stored.update(parts)


def rng(name: str) -> np.random.Generator:
    """Returns a generator that depends on a name alone."""
    return np.random.default_rng(list(name.encode()))


def floats(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng(name).standard_normal(shape), F32)


def integers(name: str, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns integers from low to high, both included."""
    return rng(name).integers(low, high + 1, shape, dtype=np.int64)


def scales_of(name: str, shape: tuple[int, ...], dtype: Any = F16) -> np.ndarray:
    return np.asarray(np.exp2(rng(name + "scales").uniform(-6, -2, shape)), dtype)


def by_group(values: np.ndarray, group: int, columns: int) -> np.ndarray:
    return np.repeat(values.astype(F32), group, axis=-1)[..., :columns]


def save(
    written: Written,
    config: dict[str, Any],
    shards: list[str] | None = None,
    place: Callable[[str], int | None] = lambda name: None,
    metadata: dict[str, str] | None = None,
) -> Written:
    """Writes the stored tensors: one file, or shards in turn (or where ``place`` says)."""
    folder = written.path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards is None:
        save_file(written.stored, folder / "model.safetensors", metadata or {"format": "pt"})
        return written
    files: dict[str, dict[str, np.ndarray]] = {name: {} for name in shards}
    weight_map = {}
    for index, (name, array) in enumerate(written.stored.items()):
        where = place(name)
        file = shards[index % len(shards) if where is None else where]
        files[file][name] = array
        weight_map[name] = file
    for file, tensors in files.items():
        save_file(tensors, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return written


# Packers, from codes.


def pack_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Returns little-endian uint32 words of a dense stream of codes along the last axis."""
    wanted = (codes[..., None] >> np.arange(bits)) & 1
    flat = wanted.reshape(*codes.shape[:-1], -1).astype(np.uint8)
    missing = -flat.shape[-1] % 32
    flat = np.concatenate([flat, np.zeros((*flat.shape[:-1], missing), np.uint8)], axis=-1)
    return np.packbits(flat, axis=-1, bitorder="little").view("<u4")


def mlx_affine(written: Written, module: str, shape: tuple[int, ...], bits: int, group: int, *,
               scales: np.ndarray, biases: np.ndarray, codes: np.ndarray) -> None:  # fmt: skip
    values = codes * by_group(scales, group, shape[-1]) + by_group(biases, group, shape[-1])
    written.packed(
        f"{module}.weight",
        values,
        {
            f"{module}.weight": pack_words(codes, bits),
            f"{module}.scales": scales,
            f"{module}.biases": biases,
        },
    )


def mxfp4(written: Written, base: str, shape: tuple[int, ...]) -> None:
    codes = integers(base, 0, 15, shape)
    exponents = integers(base + "e", 118, 126, (*shape[:-1], shape[-1] // 32))
    values = FP4[codes] * np.repeat(np.exp2(exponents - 127.0), 32, axis=-1)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)
    written.packed(
        base,
        values,
        {
            base + "_blocks": blocks.reshape(*shape[:-1], shape[-1] // 32, 16),
            base + "_scales": exponents.astype(np.uint8),
        },
    )


def fp8_block(written: Written, name: str, shape: tuple[int, int], block: tuple[int, int]) -> None:
    weights = (40 * floats(name, shape)).astype(F8)
    scales = scales_of(name, tuple(-(-n // b) for n, b in zip(shape, block, strict=True)), F32)
    values = weights.astype(F32)
    for row, column in np.ndindex(shape):
        values[row, column] *= scales[row // block[0], column // block[1]]
    written.packed(name, values, {name: weights, name + "_scale_inv": scales})


def bitnet_packed(written: Written, name: str, shape: tuple[int, int], divide: bool) -> None:
    codes = integers(name, -1, 1, shape)
    scale = scales_of(name, (1,), BF16)
    strips = (codes + 1).reshape(4, shape[0] // 4, shape[1])
    packed = sum(strips[place] << (2 * place) for place in range(4)).astype(np.uint8)
    wide = scale.astype(F32)
    values = codes.astype(F32) / wide if divide else codes * wide
    written.packed(name, values, {name: packed, name + "_scale": scale})


def compressed(written: Written, module: str, shape: tuple[int, int], bits: int, group: int | None,
               symmetric: bool = True, codes: np.ndarray | None = None) -> None:  # fmt: skip
    half = 1 << (bits - 1)
    codes = integers(module, -half, half - 1, shape) if codes is None else codes
    group = group or shape[1]
    groups = (shape[0], -(-shape[1] // group))
    scales = scales_of(module, groups, BF16)
    zeros = np.zeros(groups, int) if symmetric else integers(module + "z", -half, half - 1, groups)
    values = (codes - np.repeat(zeros, group, axis=1)[:, : shape[1]]) * by_group(
        scales, group, shape[1]
    )
    parts = {
        f"{module}.weight_packed": pack_words(codes + half, bits).view(np.int32),
        f"{module}.weight_scale": scales,
        f"{module}.weight_shape": np.array(shape, np.int64),
    }
    if not symmetric:
        packed = pack_words(zeros.T + half, bits).T
        parts[f"{module}.weight_zero_point"] = np.ascontiguousarray(packed).view(np.int32)
    written.packed(f"{module}.weight", values, parts)


def gptq(written: Written, module: str, shape: tuple[int, int], bits: int, group: int,
         version: int = 1, zero: int | None = None) -> None:  # fmt: skip
    top = (1 << bits) - 1
    codes = integers(module, 0, top, shape)
    groups = (shape[0], -(-shape[1] // group))
    scales = scales_of(module, groups)
    zeros = integers(module + "z", 1, top, groups) if zero is None else np.full(groups, zero)
    values = (codes - np.repeat(zeros, group, axis=1)[:, : shape[1]]) * by_group(
        scales, group, shape[1]
    )
    stored = zeros - 1 if version == 1 else zeros
    written.packed(
        f"{module}.weight",
        values,
        {
            f"{module}.qweight": np.ascontiguousarray(pack_words(codes, bits).T).view(np.int32),
            f"{module}.qzeros": pack_words(np.ascontiguousarray(stored.T), bits).view(np.int32),
            f"{module}.scales": np.ascontiguousarray(scales.T),
            f"{module}.g_idx": (np.arange(shape[1]) // group).astype(np.int32),
        },
    )


def awq(written: Written, module: str, shape: tuple[int, int], group: int, *, binary=False) -> None:
    codes = integers(module, 0, 15, shape)
    groups = (shape[0], shape[1] // group)
    zeros = integers(module + "z", 0, 15, groups)
    if binary:
        zeros = np.full(groups, 8)
        codes = np.where(codes < 8, 7, 9)
    scales = scales_of(module, groups)
    values = (codes - np.repeat(zeros, group, axis=1)) * by_group(scales, group, shape[1])

    def columns(matrix: np.ndarray) -> np.ndarray:
        words = np.zeros((len(matrix), matrix.shape[1] // 8), np.uint32)
        for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= matrix[:, column::8].astype(np.uint32) << np.uint32(4 * place)
        return words.view(np.int32)

    written.packed(
        f"{module}.weight",
        values,
        {
            f"{module}.qweight": columns(codes.T),
            f"{module}.qzeros": columns(zeros.T),
            f"{module}.scales": np.ascontiguousarray(scales.T),
        },
    )


# GGUF.

GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35,
              "MXFP4": 39, "Q1_0": 41, "Q2_0": 42, "Q2_0_G128": 42}  # fmt: skip
GGUF_GROUPS = {"Q4_0": 32, "Q8_0": 32, "TQ1_0": 256, "TQ2_0": 256, "Q1_0": 128, "Q2_0": 64,
               "Q2_0_G128": 128}  # fmt: skip
_LEVELS = {"Q4_0": (-8, 7), "Q8_0": (-128, 127), "TQ1_0": (-1, 1), "TQ2_0": (-1, 1),
           "Q2_0": (-1, 2), "Q2_0_G128": (-1, 2)}  # fmt: skip


def gguf_codes(name: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "Q1_0":
        return 2 * integers(name, 0, 1, shape) - 1
    return integers(name, *_LEVELS[kind], shape)


def gguf_blocks(kind: str, codes: np.ndarray, scales: np.ndarray) -> bytes:
    """Returns the blocks of a matrix of integers, each block a scale times its integers."""
    group = GGUF_GROUPS[kind]
    blocks = []
    for block, scale in zip(codes.reshape(-1, group), scales.reshape(-1), strict=True):
        half = F16(scale).tobytes()
        if kind == "Q1_0":
            data = np.packbits(block > 0, bitorder="little").tobytes()
        elif kind.startswith("Q2_0"):
            data = pack_words(block + 1, 2).tobytes()
        elif kind == "Q4_0":
            data = ((block[:16] + 8) | (block[16:] + 8) << 4).astype(np.uint8).tobytes()
        elif kind == "Q8_0":
            data = block.astype(np.int8).tobytes()
        elif kind == "TQ2_0":
            parts = (block + 1).reshape(2, 4, 32)
            data = sum(parts[:, n] << (2 * n) for n in range(4)).astype(np.uint8).tobytes()
        else:
            data = _tq1_0(block + 1)
        blocks.append(data + half if kind.startswith("TQ") else half + data)
    return b"".join(blocks)


def _tq1_0(digits: np.ndarray) -> bytes:
    data = b""
    for first, count, width in ((0, 5, 32), (160, 5, 16), (240, 4, 4)):
        numbers = np.zeros(width, int)
        for place in range(5):
            row = digits[first + place * width :][:width] if place < count else np.zeros(width, int)
            numbers = 3 * numbers + row
        data += ((numbers * 256 + 242) // 243).astype(np.uint8).tobytes()
    return data


def gguf_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    """Returns the type and bytes of a metadata value."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, np.ndarray):
        kind = {"int8": 1, "int32": 5, "float32": 6}[value.dtype.name]
        return struct.pack("<IIQ", 9, kind, value.size) + value.tobytes()
    head, *_ = values = [gguf_value(item) for item in value]
    return (
        struct.pack("<I", 9)
        + head[:4]
        + struct.pack("<Q", len(values))
        + b"".join(item[4:] for item in values)
    )


def gguf_file(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]],
    version: int = 3,
) -> bytes:
    """Returns a GGUF file: metadata, and name -> (type id, shape with inputs last, data)."""
    text = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        text += gguf_string(key) + gguf_value(value)
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        text += gguf_string(name) + struct.pack("<I", len(shape))
        text += struct.pack(f"<{len(shape)}Q", *shape[::-1])
        text += struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    return text + b"\0" * (-len(text) % 32) + data


def gguf_tensor(
    written: Written, name: str, kind: str, shape: tuple[int, ...]
) -> tuple[int, tuple[int, ...], bytes]:
    """Returns the entry of a tensor of integers and scales, and notes its values."""
    codes = gguf_codes(name, kind, shape)
    group = GGUF_GROUPS[kind]
    scales = scales_of(name, (*shape[:-1], shape[-1] // group))
    written.values[name] = codes * by_group(scales, group, shape[-1])
    return GGUF_TYPES[kind], shape, gguf_blocks(kind, codes, scales)
