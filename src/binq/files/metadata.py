"""What a file says of its packed tensors: ``__metadata__["binq"]``, one JSON text.

``{"version": 1, "tensors": {NAME: {"format", "shape", "group_size", "symmetric"}}, "sha256":
{STORED NAME: hex}}``, where NAME is stored as NAME.packed, NAME.scales and, where not
symmetric, NAME.zero_points. docs/formats.md is normative.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import FormatError, UnsupportedFormatError
from binq.formats import FORMATS, Geometry, format_label, get_format
from binq.formats.layout import GROUP_SIZES

VERSION = 1
KEY = "binq"


class Description(NamedTuple):
    """All that a packed tensor's parts do not say of themselves."""

    format: str
    shape: tuple[int, ...]
    group_size: int | None
    symmetric: bool

    @classmethod
    def of(cls, q: QuantizedArray) -> "Description":
        return cls(q.format, q.shape, q.group_size, q.symmetric)

    @property
    def label(self) -> str:
        """Returns what a table shows: ``int4 g128``, ``binary row asymmetric``."""
        return format_label(self.format, self.group_size, self.symmetric)

    def part_names(self, name: str) -> list[str]:
        """Returns the names under which the parts of tensor ``name`` are stored."""
        parts = ["packed", "scales"] + ([] if self.symmetric else ["zero_points"])
        return [f"{name}.{part}" for part in parts]

    def part_shapes(
        self, scales_dtype: np.dtype[Any]
    ) -> list[tuple[np.dtype[Any], tuple[int, ...]]]:
        """Returns dtype and shape of each part, given the dtype of the scales."""
        kind = get_format(self.format)
        geometry = Geometry(self.shape[-2], self.shape[-1], self.group_size)
        lead = self.shape[:-2]
        parts: list[tuple[np.dtype[Any], tuple[int, ...]]] = [
            (np.dtype(np.uint8), lead + kind.packed_shape(geometry)),
            (scales_dtype, lead + geometry.scales_shape),
        ]
        if not self.symmetric:
            zero = (kind.zero_points_dtype(scales_dtype), lead + kind.zero_points_shape(geometry))
            parts.append(zero)
        return parts


def stored_names(tensors: Mapping[str, Description]) -> set[str]:
    """Returns the names under which the parts of all packed tensors are stored."""
    return {part for name, d in tensors.items() for part in d.part_names(name)}


def dump(tensors: Mapping[str, Description]) -> str:
    """Returns the JSON text that describes the packed tensors of a file."""
    described = {
        name: d._asdict() | {"shape": list(d.shape)} for name, d in sorted(tensors.items())
    }
    return json.dumps({"version": VERSION, "tensors": described}, separators=(",", ":"))


def parse(text: str, path: object) -> tuple[dict[str, Description], dict[str, str]]:
    """Returns the described tensors and the sha256 of stored tensors, from a file's JSON text.

    Raises UnsupportedFormatError for a newer version, FormatError for anything malformed.
    """

    def bad(reason: str) -> FormatError:
        return FormatError(f"{path}: __metadata__['binq']: {reason}")

    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(f"not JSON: {error}") from None
    if not isinstance(content, dict) or type(content.get("version")) is not int:
        raise bad("must be an object with an integer version")
    if content["version"] > VERSION:
        raise UnsupportedFormatError(
            f"{path}: file format version {content['version']} is newer than this binq reads "
            f"({VERSION}): upgrade binq"
        )
    if content["version"] < 1 or set(content) - {"version", "tensors", "sha256"}:
        raise bad("must have version 1, tensors and sha256 only")
    tensors, hashes = content.get("tensors"), content.get("sha256", {})
    if not isinstance(tensors, dict) or not isinstance(hashes, dict):
        raise bad("tensors and sha256 must be objects")
    if not all(isinstance(value, str) for value in hashes.values()):
        raise bad("sha256 must hold strings")
    return {name: _check_description(name, entry, bad) for name, entry in tensors.items()}, hashes


def _check_description(name: str, entry: Any, bad: Any) -> Description:
    if not isinstance(entry, dict) or set(entry) != set(Description._fields):
        raise bad(f"tensor {name!r} must have exactly {', '.join(Description._fields)}")
    format, shape, group_size = entry["format"], entry["shape"], entry["group_size"]
    if not isinstance(format, str) or format not in FORMATS:
        raise bad(f"tensor {name!r} has format {format!r}, not one of {', '.join(FORMATS)}")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 8:
        raise bad(f"tensor {name!r} must have a shape of 2 to 8 sizes, got {shape!r}")
    if not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise bad(f"tensor {name!r} must have a shape of sizes, got {shape!r}")
    if group_size is not None and (type(group_size) is not int or group_size not in GROUP_SIZES):
        raise bad(f"tensor {name!r} has group_size {group_size!r}")
    if type(entry["symmetric"]) is not bool:
        raise bad(f"tensor {name!r} must have symmetric true or false")
    if not entry["symmetric"] and not get_format(format).has_asymmetric:
        raise bad(f"tensor {name!r}: {format} is symmetric only")
    return Description(format, tuple(shape), group_size, entry["symmetric"])


def assemble(
    name: str, d: Description, arrays: Mapping[str, NDArray[Any]], path: object
) -> QuantizedArray:
    """Returns the packed tensor ``name`` from the stored arrays of its file, without copying.

    Raises FormatError naming file, tensor and part where one is missing or does not fit.
    """
    parts = []
    for part in d.part_names(name):
        if part not in arrays:
            raise FormatError(f"{path}: tensor {name!r}: its part {part!r} is missing")
        parts.append(arrays[part])
    try:
        return QuantizedArray(d.format, d.shape, d.group_size, d.symmetric, *parts)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: tensor {name!r}: {error}") from None
