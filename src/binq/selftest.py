"""``binq selftest``: does this installation compute what it must, on this machine?"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq import _core
from binq.array.array import QuantizedArray
from binq.array.choices import FORMAT_NAMES, ActivationsName, FormatName
from binq.array.linear import linear
from binq.convert import quantize_checkpoint
from binq.convert.verify import verify
from binq.files import save_file
from binq.formats import get_format
from binq.formats.zeros import NONE
from binq.methods.quantize import METHODS, quantize
from binq.runtime import cpu_info

# sha256 over the products of _cases(): the same on every machine and kernel set.
EXPECTED = "ad7a77c551127252f35d3abb0a01ec341da6a7a07a2762c6d06d437791dbcdc0"
_SAMPLE: tuple[tuple[int, ActivationsName], ...] = (
    (1, "int8"),
    (1, "int16"),
    (5, "int8"),
    (5, "int16"),
    (40, "int8"),
    (40, "int16"),
)


def selftest(say: Callable[[str], None]) -> bool:
    """Returns whether all checks passed; says a line for each."""
    info = cpu_info()
    say(f"kernels {info['isa']} of {', '.join(info['available'])}; {info['threads']} threads")
    if info["warning"]:
        say(f"warning: {info['warning']}")
    passed = True
    before = _core.isa()
    for name in info["available"]:
        _core.use_isa(name)
        same = digest() == EXPECTED
        passed &= same
        say(f"{name}: integer products {'are exact' if same else 'DIFFER from the definition'}")
    _core.use_isa(before)
    for format in FORMAT_NAMES:
        say(_speed(format))
    problems = _convert()
    passed &= not problems
    say("conversion of a small checkpoint: " + ("ok" if not problems else "; ".join(problems)))
    return passed


def digest() -> str:
    """Returns the sha256 of integer products of fixed codes and activations."""
    found = hashlib.sha256()
    for format in FORMAT_NAMES:
        q, x = _case(format)
        for rows, mode in _SAMPLE:
            found.update(linear(x[:rows], q, activations=mode).tobytes())
    return found.hexdigest()


def _case(format: FormatName) -> tuple[QuantizedArray, NDArray[np.float32]]:
    """Codes, scales and activations by a small formula: no generator that could change."""
    k = np.arange(70 * 300, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    levels = get_format(format).codes(NONE)
    codes = np.array(levels, np.int8)[(k >> np.uint64(16)) % np.uint64(len(levels))]
    scales = (1 + (k[:210] >> np.uint64(20)).astype(np.float32) % 97).reshape(70, 3) / 1024
    x = ((k[:12000] >> np.uint64(8)).astype(np.float32) % 2003 - 1001).reshape(40, 300) / 64
    q = QuantizedArray.from_codes(codes.reshape(70, 300), scales, format=format, group_size=128)
    return q, x.astype(np.float32)


def _speed(format: FormatName, features: int = 2048) -> str:
    w = np.random.default_rng(0).standard_normal((features, features), dtype=np.float32)
    q = quantize(w, format, method=METHODS[get_format(format).methods[-1]])
    parts = []
    for rows in (1, 64):
        x = np.ones((rows, features), np.float32)
        best = min(_seconds(partial(linear, x, q)) for _ in range(5))
        parts.append(f"{rows} rows {rows * w.size / best / 1e9:.0f} G products/s")
    return f"{format}: {q.bits_per_weight:.3f} bits/weight, {', '.join(parts)}"


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _convert() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.mkdir()
        (source / "config.json").write_text('{"model_type": "qwen3"}')
        w = np.random.default_rng(1).standard_normal((48, 200), dtype=np.float32)
        tensors: dict[str, QuantizedArray | NDArray[Any]] = {
            "model.layers.0.mlp.up_proj.weight": w,
            "model.norm.weight": np.ones(200, np.float16),
        }
        save_file(tensors, source / "model.safetensors")
        quantize_checkpoint(source, target, "int4")
        return list(verify(target, source))
