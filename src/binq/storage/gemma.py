"""Google's own packing of Gemma: 2, 4 and 8 bits with a scale a row, embeddings with blocks.

``(code - 2**(bits-1)) * weight_scale``: codes of 2 and 4 bits lie densely in bytes, the lowest bits
first, those of 8 bits are signed bytes. ``module_quant_configs`` has the bits of modules by
patterns. Scales of activations lie beside them and change no weight. Source: transformers'
integration.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import Storage
from binq.storage.integers import Integers
from binq.storage.patterns import first_match
from binq.storage.scaled import FLOATS
from binq.storage.widths import input_widths

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

METHODS = ("gemma",)
# Linear layers, and embeddings.
_PAIRS = ((".weight", ".weight_scale"), (".embedding_quantized", ".embedding_scale"))


@dataclass(frozen=True)
class GemmaIntegers(Integers):
    """Integers as Gemma's releases of few bits store them."""

    scheme = "gemma"

    @property
    def dtype(self) -> str:
        return "I8" if self.container == "bytes" else "U8"


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of both kinds)."""
    own = config.get("module_quant_configs") or {}
    if not isinstance(own, Mapping) or not all(
        isinstance(value, Mapping) for value in own.values()
    ):
        raise FormatError(f"{source.path}: module_quant_configs is {own!r}")
    overrides = list(own.values())
    found: dict[str, Storage] = {}
    for name in sorted(names):
        for codes, scales in _PAIRS:
            module = name.removesuffix(codes)
            if module == name or source.info(name).dtype not in ("U8", "I8"):
                continue
            if module + scales not in names:
                raise FormatError(f"{source.path}: {name!r} has no {module + scales!r}")
            chosen = first_match(source, "module_quant_configs", own, module)
            override = {} if chosen is None else overrides[chosen]
            bits = override.get("num_bits", config.get("num_bits", 4))
            found[f"{module}.weight"] = _weights(source, module, name, module + scales, bits)
    return found


def _weights(
    source: "Checkpoint", module: str, name: str, scales: str, bits: object
) -> GemmaIntegers:
    info, scale = source.info(name), source.info(scales)
    if type(bits) is not int or bits not in (2, 4, 8):
        raise UnsupportedFormatError(f"{source.path}: {name!r}: Gemma weights of {bits!r} bits")
    if len(info.shape) != 2 or info.dtype != ("I8" if bits == 8 else "U8"):
        raise FormatError(
            f"{source.path}: {name!r} is {info.dtype} {info.shape}, expected a matrix of "
            f"{'I8' if bits == 8 else 'U8'} for {bits} bits"
        )
    rows, width = info.shape
    columns = width * 8 // bits
    widths = input_widths(source.config, module)
    # The last byte of a row may not be full.
    fitting = [size for size in sorted(widths) if -(-size * bits // 8) == width]
    if widths and not fitting:
        raise FormatError(
            f"{source.path}: {name!r} has {columns} inputs of {bits} bits, by config.json they are "
            f"{' or '.join(map(str, sorted(widths)))}"
        )
    columns = fitting[0] if fitting else columns
    blocks = scale.shape[1] if len(scale.shape) == 2 else 0
    if scale.dtype not in FLOATS or scale.shape != (rows, blocks) or not blocks or columns % blocks:
        raise FormatError(
            f"{source.path}: {scales!r} is {scale.dtype} {scale.shape}, expected floats "
            f"({rows}, blocks)"
        )
    group = None if blocks == 1 else columns // blocks
    container = "bytes" if bits == 8 else "dense"
    return GemmaIntegers(name, (rows, columns), bits, container, width, scales, group)
