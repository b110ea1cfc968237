"""MLX: affine integers, ``scales * code + biases`` in groups along the input axis, and floats.

Codes of 1 to 8 bits lie densely in little-endian 32-bit words. Bonsai is 1 bit with scale 2s and
bias −s, that is ±s; its ternary sibling 2 bits with bias −s. ``X.biases`` (of the groups) is not
``X.bias`` (of the layer). Source: mlx.core.quantize.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.errors import FormatError, UnsupportedFormatError
from binq.formats.zeros import CODE, NONE, OFFSET
from binq.storage import mlx_writer
from binq.storage.base import Exact, ScaleFit, Storage, few_bits, pack_exact, row_blocks, to_float32
from binq.storage.bits import unpack
from binq.storage.coded import each_group, even_format
from binq.storage.fp8 import Float8
from binq.storage.mxfp4 import Mxfp4
from binq.storage.nvfp4 import Nvfp4
from binq.storage.scaled import E4M3, E8M0, Scaled
from binq.storage.scheme import Scheme
from binq.storage.widths import input_widths

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_BITS = (1, 2, 3, 4, 5, 6, 8)
_GROUPS = (32, 64, 128)


class _FloatMode(NamedTuple):
    """Floats in words, a byte of scale for each group."""

    element: str
    group: int
    words: int
    scale: str
    storage: type[Scaled]


_FLOAT_MODES = {
    "mxfp4": _FloatMode("F4", 32, 4, E8M0, Mxfp4),
    "nvfp4": _FloatMode("F4", 16, 2, E4M3, Nvfp4),
    "mxfp8": _FloatMode("F8_E4M3", 32, 8, E8M0, Float8),
}
# What MLX takes where the settings of a module do not say.
_BITS_UNSAID, _GROUP_UNSAID = 4, 64
_SCAN_BYTES = 1 << 25
_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class MlxAffine(Storage):
    """Packed codes, and the scale and bias of each group."""

    scheme = "mlx_affine"
    name: str
    scales: str
    biases: str
    logical_shape: tuple[int, ...]
    bits: int
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.logical_shape

    @property
    def dtype(self) -> str:
        return "U32"

    @property
    def stored(self) -> tuple[str, ...]:
        return (self.name, self.scales, self.biases)

    def read_values(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.float32]:
        scales, biases = self._read_groups(source, matrix, start, stop)
        values = self._read_codes(source, matrix, start, stop).astype(np.float32)
        each_group(np.multiply, values, scales, self.group)
        each_group(np.add, values, biases, self.group)
        return values

    def exact_format(self, source: "Checkpoint") -> Exact | None:
        """Returns the format of weights of 1 to 4 and of 8 bits.

        Integers of as many bits with the biases as offsets have them all; where biases are a whole
        or half number of scales below zero, a format that is smaller or faster may.
        """
        if 0 in self.shape:
            return None
        plain = _Levels()
        for matrix in range(prod(self.shape[:-2])):
            for start, stop in row_blocks(self, _SCAN_BYTES):
                plain.look(*self._read_groups(source, matrix, start, stop), self.bits)
                if not plain.finite or self.bits in (5, 6):
                    return None
                if self.bits > 1 and plain.possible and plain.ternary:
                    codes = self._read_codes(source, matrix, start, stop)
                    plain.ternary = int(codes.max()) <= 2
        return plain.result(self.group, self.bits)

    def exact_rows(
        self, source: "Checkpoint", exact: Exact, matrix: int, start: int, stop: int
    ) -> Packed:
        scales, biases = self._read_groups(source, matrix, start, stop)
        codes = self._read_codes(source, matrix, start, stop).astype(np.int16)
        if exact.packing.format == "binary":
            half = scales * np.float32(0.5)
            codes = 2 * codes - np.int16(1)
            middle = None if exact.packing.symmetric else biases + half
            return pack_exact(exact, codes, half, middle)
        if exact.packing.format == "ternary":
            return pack_exact(exact, codes - np.int16(1), scales)
        if exact.packing.format == "int2" and exact.packing.symmetric:
            middle = _zero_points(scales, biases)[:, :1].astype(np.int16)
            codes = codes - middle
            # Rows with a code 2 are those of the negated scale: int2 has the codes −2 to 1.
            turned = codes.max(axis=-1, keepdims=True) > 1
            codes, scales = np.where(turned, -codes, codes), np.where(turned, -scales, scales)
            return pack_exact(exact, codes, scales)
        if exact.packing.symmetric:
            return pack_exact(exact, codes - np.int16(1 << self.bits - 1), scales)
        offsets = exact.packing.zero == OFFSET
        return pack_exact(exact, codes, scales, biases if offsets else _zero_points(scales, biases))

    def _read_codes(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> NDArray[np.uint8]:
        rows, columns = self.shape[-2:]
        words = columns * self.bits // 32
        first = matrix * rows
        data = source.read_span(self.name, first + start, first + stop, (words,))
        return unpack(data, self.bits, columns)

    def _read_groups(
        self, source: "Checkpoint", matrix: int, start: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        rows, columns = self.shape[-2:]
        first, row = matrix * rows, (columns // self.group,)
        scales = source.read_span(self.scales, first + start, first + stop, row)
        biases = source.read_span(self.biases, first + start, first + stop, row)
        return to_float32(scales), to_float32(biases)


class Mlx(Scheme):
    """Reads all modes of MLX, writes affine integers.

    MLX's settings name no method: that it is MLX's is told by their keys.
    """

    name = "mlx"
    file_format = "mlx"

    def collect(
        self, source: "Checkpoint", settings: Mapping[str, Any], names: Set[str]
    ) -> dict[str, Storage]:
        return collect(source, settings, names)

    def check(self, name: str, weights: QuantizedArray) -> None:
        mlx_writer.check(name, weights)

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        return mlx_writer.write(name, weights)

    def settings(self, weights: Mapping[str, QuantizedArray]) -> dict[str, Any]:
        return mlx_writer.settings(weights)

    def config(self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]) -> dict[str, Any]:
        settings = mlx_writer.settings(weights)
        return {"quantization": settings, "quantization_config": settings}


class _Levels:
    """What all scales and biases seen so far allow."""

    def __init__(self) -> None:
        self.finite = True
        self.symmetric = True  # 1 bit: the two levels are ±s
        self.possible = True  # without offsets; of 1 bit: in the binary format
        self.ternary = True  # 2 bits: the zero is code 1, and no code 3 appears
        self.two = True  # 2 bits: the zero of each group of a row is code 1, or of each code 2
        self.centred = True  # 3 bits and more: the zero of each group is the middle code, 4 or 8
        self._fit = ScaleFit()
        self._fit_offsets = ScaleFit()

    def look(self, scales: NDArray[np.float32], biases: NDArray[np.float32], bits: int) -> None:
        self.finite = bool(np.isfinite(scales).all() and np.isfinite(biases).all())
        if not self.finite:
            return
        self._fit_offsets.add(scales)
        self._fit_offsets.add(biases)
        if bits == 1:
            half = scales * np.float32(0.5)
            middle = biases + half
            levels = (middle - half == biases) & (middle + half == biases + scales)
            self.possible = self.possible and bool(levels.all())
            self.symmetric = self.symmetric and bool((middle == 0).all())
            self._fit.add(half)
            self._fit.add(middle)
        elif self.possible:
            zeros = _zero_points(scales, biases)
            whole = (zeros * scales == -biases) & (zeros >= 0) & (zeros < 1 << bits)
            # With few bits in scale and code all products and sums are exact in float32.
            self.possible = bool(whole.all()) and few_bits(scales)
            self.ternary = self.ternary and bool((zeros == 1).all())
            of_rows = (zeros == 1).all(axis=-1) | (zeros == 2).all(axis=-1)
            self.two = bits == 2 and self.two and bool(of_rows.all())
            middle = (zeros == 1 << bits - 1) | (scales == 0)
            self.centred = bits >= 3 and self.centred and bool(middle.all())
            self._fit.add(scales)

    def result(self, group: int | None, bits: int) -> Exact:
        if not self.possible:
            return Exact(Packing(even_format(bits), group, OFFSET), self._fit_offsets.name)
        scale_dtype = self._fit.name
        if bits == 1:
            return Exact(Packing("binary", group, NONE if self.symmetric else OFFSET), scale_dtype)
        if self.ternary:
            return Exact(Packing("ternary", group), scale_dtype)
        if self.two:
            return Exact(Packing("int2", group), scale_dtype)
        if self.centred:
            return Exact(Packing(even_format(bits), group), scale_dtype)
        return Exact(Packing(even_format(bits), group, CODE), scale_dtype)


def _zero_points(scales: NDArray[np.float32], biases: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the code of zero in each group, rounded; 0 where the scale is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scales == 0, np.float32(0), np.rint(-biases / scales))


def collect(source: "Checkpoint", config: Mapping[str, Any], names: Set[str]) -> dict[str, Storage]:
    """Returns the packed weights of an MLX checkpoint by name: all that have scales beside them."""
    own = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    found: dict[str, Storage] = {}
    for scales in sorted(names):
        if not scales.endswith(".scales"):
            continue
        module = scales.removesuffix(".scales")
        name, biases = module + ".weight", module + ".biases"
        if name not in names:
            raise FormatError(f"{source.path}: {scales!r} has no {name!r}")
        if config.get(module, True) is not True and module not in own:
            raise FormatError(
                f"{source.path}: {scales!r} belongs to a module of type {config[module]!r}"
            )
        mode = _mode(source, config, own.get(module), module, biases in names)
        if mode == "affine":
            if biases not in names:
                raise FormatError(f"{source.path}: {scales!r} has no {biases!r}")
            bits, group = _sizes(source, config, own, module)
            found[name] = _affine(source, (name, scales, biases), bits, group)
        elif mode in _FLOAT_MODES and biases not in names:
            if f"{module}.global_scale" in names:
                raise UnsupportedFormatError(f"{source.path}: {module!r}: MLX with a global_scale")
            found[name] = _floats(source, name, scales, mode)
        else:
            raise UnsupportedFormatError(f"{source.path}: {module!r}: MLX mode {mode!r}")
    return found


def parts(source: "Checkpoint", names: Set[str]) -> Set[str]:
    """Returns the tensors of modules that can be nothing else than MLX's."""
    kinds = ("weight", "scales", "biases")
    return {
        f"{module}.{kind}"
        for module in {name.removesuffix(".scales") for name in names if name.endswith(".scales")}
        if f"{module}.weight" in names and source.info(f"{module}.weight").dtype == "U32"
        for kind in kinds
        if f"{module}.{kind}" in names
    }


def _sizes(
    source: "Checkpoint",
    config: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    module: str,
) -> tuple[int, int]:
    """Returns bits and group size of an affine module.

    The stored shapes fix their product alone: 8 bits in groups of 32 look like 4 bits in groups of
    64 of twice as many inputs. So the settings of a module itself count; where the configuration
    names it under another prefix or not at all, the number of its inputs decides.
    """
    settings = own.get(module)
    if settings is None:
        near = [
            value
            for key, value in own.items()
            if key.endswith("." + module) or module.endswith("." + key)
        ]
        settings = near[0] if near and all(value == near[0] for value in near) else config
    bits, group = settings.get("bits", _BITS_UNSAID), settings.get("group_size", _GROUP_UNSAID)
    floats = settings is config and str(config.get("mode")) in _FLOAT_MODES
    if not floats and not _known(bits, group):
        raise UnsupportedFormatError(
            f"{source.path}: {module!r}: MLX weights of {bits!r} bits, group {group!r}"
        )
    words = prod(source.info(f"{module}.weight").shape[-1:])
    groups = prod(source.info(f"{module}.scales").shape[-1:])
    widths = sorted(input_widths(source.config, module))
    fitting = [
        (32 * words // width, width // groups)
        for width in widths
        if groups and 32 * words % width == 0 and width % groups == 0
    ]
    fitting = [sizes for sizes in fitting if _known(*sizes)]
    if not floats and (not widths or (bits, group) in fitting):
        return bits, group
    if module not in own and len(fitting) == 1:
        return fitting[0]
    if floats and not fitting:
        raise UnsupportedFormatError(
            f"{source.path}: {module!r} is affine in a model of mode {config['mode']}, and nothing "
            "says of how many bits"
        )
    raise FormatError(
        f"{source.path}: {module!r}: {bits} bits in groups of {group} give "
        f"{32 * words // bits} inputs, by config.json they are {' or '.join(map(str, widths))}"
    )


def _known(bits: object, group: object) -> bool:
    """Returns whether MLX has affine weights of these sizes."""
    return type(bits) is int and type(group) is int and bits in _BITS and group in _GROUPS


def _affine(source: "Checkpoint", names: tuple[str, str, str], bits: int, group: int) -> MlxAffine:
    codes, scales, biases = (source.info(name) for name in names)
    fits = codes.dtype == "U32" and len(codes.shape) >= 2 and not codes.shape[-1] * 32 % bits
    columns = codes.shape[-1] * 32 // bits if fits else 0
    groups = (*codes.shape[:-1], columns // group)
    if (
        not fits
        or columns % group
        or scales.shape != groups
        or biases.shape != groups
        or scales.dtype not in _FLOATS
        or biases.dtype not in _FLOATS
    ):
        raise FormatError(
            f"{source.path}: {names[0]!r} is {codes.dtype} {codes.shape}, scales {scales.shape}, "
            f"biases {biases.shape}: not MLX weights of {bits} bits in groups of {group}"
        )
    return MlxAffine(*names, (*codes.shape[:-1], columns), bits, group)


def _mode(
    source: "Checkpoint",
    config: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    module: str,
    biased: bool,
) -> str:
    """Returns the mode of a module.

    What a module has of its own is affine unless it says otherwise. Where the settings do not name
    it, its tensors decide: only affine weights have biases, and those of each other mode have
    another number of words for each scale.
    """
    mode = str((config if settings is None else settings).get("mode") or "affine")
    if settings is not None:
        return mode
    if biased and mode in _FLOAT_MODES:
        return "affine"
    words, scales = (source.info(f"{module}.{part}") for part in ("weight", "scales"))
    if biased or mode != "affine" or scales.dtype != "U8" or not scales.shape:
        return mode
    codes, groups = prod(words.shape[-1:]), scales.shape[-1]
    return next((m for m, kind in _FLOAT_MODES.items() if codes == kind.words * groups), mode)


def _floats(source: "Checkpoint", name: str, scales: str, mode: str) -> Scaled:
    """Returns the weights of a mode whose elements are floats of 4 or 8 bits."""
    kind = _FLOAT_MODES[mode]
    codes, stored = source.info(name), source.info(scales)
    *lead, rows, words = codes.shape if len(codes.shape) >= 2 else (0, 0)
    groups = words // kind.words
    if (
        codes.dtype != "U32"
        or words % kind.words
        or stored.dtype != "U8"
        or stored.shape != (*lead, rows, groups)
    ):
        raise FormatError(
            f"{source.path}: {name!r} is {codes.dtype} {codes.shape}, scales {stored.dtype} "
            f"{stored.shape}: not MLX weights of mode {mode}"
        )
    shape = (*lead, rows, groups * kind.group)
    return kind.storage(
        name, kind.element, shape, scales, kind.scale, (rows, groups), (1, kind.group)
    )
