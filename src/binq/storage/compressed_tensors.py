"""compressed-tensors: packed integers, int8, float8, MXFP4, MXFP8 and NVFP4 weights.

A configuration has several schemes, which may be of several formats; the stored tensors of a module
say which of them it can have. Source: the compressed-tensors library; of releases before 0.18 the
words of 3, 5, 6 and 7 bits, of those before 0.10 zero points in bytes.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import FormatError, UnsupportedFormatError
from binq.storage import compressed_transforms, compressed_writer
from binq.storage.base import Storage
from binq.storage.coded import column_order
from binq.storage.compressed_schemes import WeightScheme, choose, weight_schemes
from binq.storage.fp8 import Float8
from binq.storage.integers import Integers
from binq.storage.mxfp4 import BLOCK, Mxfp4
from binq.storage.nvfp4 import GROUP, Nvfp4, fp4_shape, nvfp4
from binq.storage.scaled import E8M0, FLOATS, scale_grid, scale_type
from binq.storage.scheme import Scheme
from binq.storage.small_floats import FLOAT8

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_PACK, _MXFP4, _NVFP4 = "pack-quantized", "mxfp4-pack-quantized", "nvfp4-pack-quantized"
_INTS = ("int-quantized", "naive-quantized")
_FLOAT8S = ("float-quantized", "naive-quantized", "mxfp8-quantized")
# The release from which codes of 3, 5, 6 and 7 bits lie densely.
_DENSE_SINCE = (0, 18)


@dataclass(frozen=True)
class CompressedIntegers(Integers):
    """Integers as compressed-tensors stores them."""

    scheme = "compressed_tensors"


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of a checkpoint by name (``X.weight`` of ``X.weight_packed``)."""
    reader = _Reader(source, config, names)
    found: dict[str, Storage] = {}
    for name in sorted(names):
        dtype = source.info(name).dtype
        module, _, part = name.rpartition(".")
        if part == "weight_packed":
            found[f"{module}.weight"] = (
                reader.floats4(module) if dtype == "U8" else reader.packed(module)
            )
        elif part == "weight" and dtype in FLOAT8:
            found[name] = reader.floats8(module)
        elif part == "weight" and dtype == "I8":
            found[name] = reader.bytes(module)
    return compressed_transforms.rotated(source, reader.config, found, names)


class CompressedTensors(Scheme):
    """Reads all formats of compressed-tensors, writes pack-quantized."""

    name = "compressed-tensors"

    def collect(
        self, source: "Checkpoint", settings: Mapping[str, Any], names: Set[str]
    ) -> dict[str, Storage]:
        return collect(source, settings, names)

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        return compressed_writer.write(name, weights)

    def check(self, name: str, weights: QuantizedArray) -> None:
        compressed_writer.check(name, weights)

    def settings(self, weights: Mapping[str, QuantizedArray]) -> dict[str, Any]:
        return compressed_writer.settings(weights)

    def config(self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]) -> dict[str, Any]:
        return {"quantization_config": compressed_writer.settings(weights, kept)}

    def notes(self, weights: Mapping[str, QuantizedArray]) -> list[str]:
        return compressed_writer.notes(weights)


class _Reader:
    """Finds for each module the scheme that its tensors have."""

    def __init__(self, source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> None:
        self.source, self.config, self.names = source, config, names
        self.schemes = weight_schemes(source, config)

    def _part(self, module: str, part: str) -> str:
        """Returns the name of a tensor that the module must have."""
        name = f"{module}.{part}"
        if name not in self.names:
            whole = "weight" if f"{module}.weight" in self.names else "weight_packed"
            raise FormatError(f"{self.source.path}: {f'{module}.{whole}'!r} has no {name!r}")
        return name

    def _shown(self, *parts: str) -> str:
        """Returns the tensors of an error message with their types and shapes."""
        infos = [(part, self.source.info(part)) for part in parts if part in self.names]
        return ", ".join(f"{name!r} is {info.dtype} {info.shape}" for name, info in infos)

    def packed(self, module: str) -> Storage:
        """Returns weights of integers in 32-bit words."""
        source = self.source
        name, scales = self._part(module, "weight_packed"), self._part(module, "weight_scale")
        sizes = self._part(module, "weight_shape")
        zeros, order = f"{module}.weight_zero_point", f"{module}.weight_g_idx"
        if zeros in self.names and source.info(zeros).dtype not in ("I32", "I8"):
            raise FormatError(
                f"{source.path}: {zeros!r} is {source.info(zeros).dtype}, expected packed I32"
            )
        shape = self._logical_shape(sizes, len(source.info(name).shape))
        fitting = []
        for scheme in self.schemes:
            if (scheme.format, scheme.kind) == (_PACK, "int"):
                weights = self._packed(scheme, name, scales, zeros, shape, (sizes,))
                if weights is not None:
                    fitting.append((scheme, weights))
        shown = f"{self._shown(name, scales, zeros)} of shape {shape}"
        chosen = choose(source, module, shown, fitting, self.schemes, (_PACK,))
        if order not in self.names:
            if all(scheme.reordered for scheme, meaning in fitting if meaning == chosen):
                raise FormatError(
                    f"{source.path}: actorder is set and {module!r} has no weight_g_idx"
                )
            return chosen
        column_order(source, order, shape[-1], chosen.group)
        return chosen.ordered_by(order)

    def _logical_shape(self, name: str, axes: int) -> tuple[int, ...]:
        info = self.source.info(name)
        if info.shape != (axes,) or info.dtype not in ("I64", "I32") or axes < 2:
            wanted = {2: "two", 3: "three"}.get(axes, str(axes))
            raise FormatError(f"{self.source.path}: {name!r} does not hold {wanted} sizes")
        sizes = tuple(int(size) for size in self.source.read(name))
        if min(sizes) < 0:
            raise FormatError(f"{self.source.path}: {name!r} holds sizes {sizes}")
        return sizes

    def _packed(
        self,
        scheme: WeightScheme,
        name: str,
        scales: str,
        zeros: str,
        shape: tuple[int, ...],
        others: tuple[str, ...],
    ) -> CompressedIntegers | None:
        """Returns the weights as a scheme has them, None where its tensors would be others."""
        source, bits = self.source, scheme.bits
        *lead, rows, columns = shape
        stored = source.info(name)
        grouped = self._groups(scheme, scales, shape)
        container = self._container(stored.shape[-1], columns, bits, name)
        if stored.dtype != "I32" or stored.shape[:-1] != shape[:-1] or not container or not grouped:
            return None
        group, one_scale = grouped
        groups = 1 if group is None else -(-columns // group)
        found, kind = None, "dense"
        if zeros in self.names:
            info = source.info(zeros)
            if info.dtype == "I8":
                kind = "bytes"
                fits = info.shape == source.info(scales).shape
            else:
                height = info.shape[-2] if len(info.shape) > 1 else 0
                kind = self._container(height, rows, bits, zeros, container)
                fits = bool(kind) and (*info.shape[:-2], info.shape[-1]) == (*lead, groups)
            found = zeros
            if scheme.symmetric:
                # Zero points of nothing, as early releases stored them.
                fits = fits and kind == "bytes" and not source.read(zeros).any()
                found, others = None, (*others, zeros)
            if not fits:
                return None
        return CompressedIntegers(
            name,
            shape,
            bits,
            container,
            stored.shape[-1],
            scales,
            group,
            one_scale,
            found,
            kind,
            others=others,
        )

    def _groups(
        self, scheme: WeightScheme, scales: str, shape: tuple[int, ...]
    ) -> tuple[int | None, bool] | None:
        """Returns the group size and whether a matrix has one scale, None where scales differ."""
        info = self.source.info(scales)
        *lead, rows, columns = shape
        if info.dtype not in FLOATS or scheme.strategy not in ("group", "channel", "tensor"):
            return None
        # A group that holds a row is a row.
        group = scheme.group if scheme.group is not None and scheme.group < columns else None
        groups = 1 if group is None else -(-columns // group)
        if scheme.strategy == "tensor" and prod(info.shape) == prod(lead):
            return None, True
        row = info.shape == (*lead, rows) and groups == 1
        return (group, False) if row or info.shape == (*lead, rows, groups) else None

    def _container(self, words: int, count: int, bits: int, name: str, like: str = "") -> str:
        """Returns how words hold codes, "" where they hold another number of them.

        like: how they hold them where both ways take as many words.
        """
        dense = -(-count * bits // 32) == words
        loose = -(-count // (32 // bits)) == words
        if not (dense and loose):
            return "dense" if dense else "loose" if loose else ""
        if like or words < 2 or bits in (1, 2, 4, 8):
            return like or "dense"
        version = str(self.config.get("version", "")).split(".")
        if len(version) < 2 or not all(part.isdecimal() for part in version[:2]):
            raise UnsupportedFormatError(
                f"{self.source.path}: {name!r}: {count} codes of {bits} bits in {words} words may "
                "lie densely or word by word, and no version of the settings tells"
            )
        return "dense" if (int(version[0]), int(version[1])) >= _DENSE_SINCE else "loose"

    def bytes(self, module: str) -> Storage:
        """Returns weights of integers in a byte each."""
        source = self.source
        name, scales = self._part(module, "weight"), self._part(module, "weight_scale")
        zeros = f"{module}.weight_zero_point"
        shape = source.info(name).shape
        if len(shape) < 2:
            raise FormatError(f"{source.path}: {name!r} is not a matrix: {shape}")
        fitting = []
        for scheme in self.schemes:
            grouped = self._groups(scheme, scales, shape)
            if scheme.format not in _INTS or scheme.kind != "int" or grouped is None:
                continue
            stored = zeros in self.names
            if stored:
                info = source.info(zeros)
                if info.dtype != "I8" or info.shape != source.info(scales).shape:
                    continue
                if scheme.symmetric and source.read(zeros).any():
                    continue
            weights = CompressedIntegers(
                name,
                shape,
                scheme.bits,
                "bytes",
                shape[-1],
                scales,
                *grouped,
                zeros if stored and not scheme.symmetric else None,
                "bytes",
                others=(zeros,) if stored and scheme.symmetric else (),
            )
            fitting.append((scheme, weights))
        shown = self._shown(name, scales, zeros)
        return choose(source, module, shown, fitting, self.schemes, _INTS)

    def floats8(self, module: str) -> Storage:
        """Returns float8 weights."""
        source = self.source
        name, scales = self._part(module, "weight"), self._part(module, "weight_scale")
        info = source.info(name)
        if len(info.shape) < 2:
            raise FormatError(f"{source.path}: {name!r} is not a matrix: {info.shape}")
        fitting = []
        for scheme in self.schemes:
            if scheme.format not in _FLOAT8S or (scheme.kind, scheme.bits) != ("float", 8):
                continue
            block = scheme.block if scheme.group is None else (1, scheme.group)
            powers = E8M0 if scheme.format == "mxfp8-quantized" else None
            try:
                grid, size = scale_grid(source, scales, info.shape, block)
                kind = scale_type(source, scales, powers)
            except FormatError:
                continue
            weights = Float8(name, info.dtype, info.shape, scales, kind, grid, size)
            fitting.append((scheme, weights))
        return choose(source, module, self._shown(name, scales), fitting, self.schemes, _FLOAT8S)

    def floats4(self, module: str) -> Storage:
        """Returns 4-bit floats: NVFP4 where they have a scale of the whole tensor, else MXFP4."""
        source = self.source
        name, scales = self._part(module, "weight_packed"), self._part(module, "weight_scale")
        overall = f"{module}.weight_global_scale"
        fitting: list[tuple[WeightScheme, Nvfp4 | Mxfp4]] = []
        for scheme in self.schemes:
            if (scheme.kind, scheme.bits) != ("float", 4):
                continue
            if scheme.format == _NVFP4 and overall in self.names and scheme.group == GROUP:
                fitting.append((scheme, nvfp4(source, name, scales, overall, divides=True)))
            elif scheme.format == _MXFP4 and overall not in self.names:
                *lead, rows, columns = fp4_shape(source, name, scales, BLOCK, E8M0)
                mx = Mxfp4.of(name, scales, tuple(lead), rows, columns // BLOCK)
                fitting.append((scheme, mx))
        shown = self._shown(name, scales, overall)
        return choose(source, module, shown, fitting, self.schemes, (_NVFP4, _MXFP4))
