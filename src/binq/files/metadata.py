"""What a file says of its packed tensors: ``__metadata__["binq"]``, one JSON text.

``{"version": 1, "tensors": {NAME: {"format", "shape", "group_size", "symmetric"}}, "sha256":
{STORED NAME: hex}}``, where NAME is stored as NAME.packed, NAME.scales and, where not
symmetric, NAME.zero_points. Version 2 has int2 and int3, and may say ``"zero": "offset"``,
stored as NAME.offsets. Version 3 may say ``"scale_dtype"`` and ``"offset_dtype"``, version 4
``"rotation": {"block", "flips"}``, the signs as hexadecimal digits. Version 5 has int2 and int3
with zero points, ``"zero": "code"``.
docs/formats.md is normative.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from binq.array import QuantizedArray
from binq.array.packed import Packed
from binq.array.packing import Packing
from binq.array.rotation import Rotation
from binq.errors import FormatError, UnsupportedFormatError
from binq.files.strict_json import parse_json
from binq.formats import FORMATS
from binq.formats.layout import GROUP_SIZES
from binq.formats.scales import FLOAT16, FLOAT32, SCALE_NAMES, scale_name
from binq.formats.zeros import CODE, OFFSET

VERSION = 5
FIELDS = {"format", "shape", "group_size", "symmetric"}
# What a description may have besides, by the version.
_MORE_FIELDS: dict[int, set[str]] = {
    1: set(),
    2: {"zero"},
    3: {"zero", "scale_dtype", "offset_dtype"},
    4: {"zero", "scale_dtype", "offset_dtype", "rotation"},
    5: {"zero", "scale_dtype", "offset_dtype", "rotation"},
}
KEY = "binq"
# The first version that has a format; others came with version 3.
_FIRST_VERSION = {"binary": 1, "ternary": 1, "int4": 1, "int2": 2, "int3": 2}
_SAID = tuple(name for name in SCALE_NAMES if name not in ("float16", "float32"))


class Description(NamedTuple):
    """All that a packed tensor's parts do not say of themselves."""

    packing: Packing
    shape: tuple[int, ...]
    # The types of scales and offsets that version 3 brought; None for others.
    scale_dtype: str | None = None
    offset_dtype: str | None = None

    @classmethod
    def of(cls, q: QuantizedArray) -> "Description":
        parts = q._data.parts
        return cls(q._data.packing, q.shape).with_types(parts[1].dtype, parts[-1].dtype)

    def with_types(self, scales: np.dtype[Any], offsets: np.dtype[Any]) -> "Description":
        """Returns the same description, which says these types where it has to."""
        return self._replace(
            scale_dtype=_said(scales),
            offset_dtype=_said(offsets) if self.packing.zero == OFFSET else None,
        )

    def part_names(self, name: str) -> list[str]:
        """Returns the names under which the parts of tensor ``name`` are stored."""
        return [f"{name}.{part}" for part in self.packing.part_names()]

    @property
    def version(self) -> int:
        """Returns the first version of the file format that has such weights."""
        if self.packing.zero == CODE and self.packing.kind.zero_kinds[0] == OFFSET:
            return 5
        if self.packing.rotation is not None:
            return 4
        if self.scale_dtype or self.offset_dtype:
            return 3
        first = _FIRST_VERSION.get(self.packing.format, 3)
        usual = self.packing.symmetric or self.packing.zero == self.packing.kind.zero_kinds[0]
        return first if usual else max(first, 2)

    def entry(self) -> dict[str, Any]:
        """Returns what JSON says of the tensor."""
        packing = self.packing
        entry: dict[str, Any] = {
            "format": packing.format,
            "shape": list(self.shape),
            "group_size": packing.group_size,
            "symmetric": packing.symmetric,
        }
        if not packing.symmetric and packing.zero != packing.kind.zero_kinds[0]:
            entry["zero"] = packing.zero
        if self.scale_dtype:
            entry["scale_dtype"] = self.scale_dtype
        if self.offset_dtype:
            entry["offset_dtype"] = self.offset_dtype
        if packing.rotation is not None:
            flips = packing.rotation.flips.hex()
            entry["rotation"] = {"block": packing.rotation.block, "flips": flips}
        return entry


def _said(dtype: np.dtype[Any]) -> str | None:
    """Returns the name of a type of scales where a description has to say it."""
    return None if dtype in (FLOAT16, FLOAT32) else scale_name(dtype)


def stored_names(tensors: Mapping[str, Description]) -> set[str]:
    """Returns the names under which the parts of all packed tensors are stored."""
    return {part for name, d in tensors.items() for part in d.part_names(name)}


def dump(tensors: Mapping[str, Description]) -> str:
    """Returns the JSON text that describes the packed tensors of a file.

    The version is the first that has all of them, so that older readers read what they can.
    """
    version = max((d.version for d in tensors.values()), default=1)
    described = {name: d.entry() for name, d in sorted(tensors.items())}
    return json.dumps({"version": version, "tensors": described}, separators=(",", ":"))


def parse(text: str, path: object) -> tuple[dict[str, Description], dict[str, str]]:
    """Returns the described tensors and the sha256 of stored tensors, from a file's JSON text.

    Raises UnsupportedFormatError for a newer version, FormatError for anything malformed.
    """

    def bad(reason: str) -> FormatError:
        return FormatError(f"{path}: __metadata__['binq']: {reason}")

    try:
        content = parse_json(text, whole=True)
    except ValueError as error:
        raise bad(f"not JSON: {error}") from None
    if not isinstance(content, dict) or type(content.get("version")) is not int:
        raise bad("must be an object with an integer version")
    if content["version"] > VERSION:
        raise UnsupportedFormatError(
            f"{path}: file format version {content['version']} is newer than this binq reads "
            f"({VERSION}): upgrade binq"
        )
    if content["version"] < 1 or set(content) - {"version", "tensors", "sha256"}:
        raise bad(f"must have a version from 1 to {VERSION}, tensors and sha256 only")
    tensors, hashes = content.get("tensors"), content.get("sha256", {})
    if not isinstance(tensors, dict) or not isinstance(hashes, dict):
        raise bad("tensors and sha256 must be objects")
    if not all(isinstance(value, str) for value in hashes.values()):
        raise bad("sha256 must hold strings")
    fields = FIELDS | _MORE_FIELDS[content["version"]]
    return {
        name: _check_description(name, entry, fields, bad) for name, entry in tensors.items()
    }, hashes


def described(
    metadata: Mapping[str, Any], path: object
) -> tuple[dict[str, Description], dict[str, str]]:
    """Returns what :func:`parse` does, from the metadata of a file; nothing where it has none."""
    text = metadata.get(KEY)
    return parse(text, path) if isinstance(text, str) else ({}, {})


def _check_description(name: str, entry: Any, fields: set[str], bad: Any) -> Description:
    if not isinstance(entry, dict) or not FIELDS <= set(entry) <= fields:
        raise bad(f"tensor {name!r} must have exactly {', '.join(sorted(fields))}")
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
    try:
        packing = Packing.checked(format, group_size, entry["symmetric"], entry.get("zero"))
        if "rotation" in entry:
            packing = replace(packing, rotation=_rotation(entry["rotation"], shape[-1]))
    except (TypeError, ValueError) as error:
        raise bad(f"tensor {name!r}: {error}") from None
    types = entry.get("scale_dtype"), entry.get("offset_dtype")
    for field, said in zip(("scale_dtype", "offset_dtype"), types, strict=True):
        if field in entry and said not in _SAID:
            raise bad(f"tensor {name!r} has {field} {said!r}, not one of {', '.join(_SAID)}")
    return Description(packing, tuple(shape), *types)


def _rotation(entry: Any, in_features: int) -> Rotation:
    """Returns a rotation that an entry describes. Raises ValueError or TypeError."""
    if not isinstance(entry, dict) or set(entry) != {"block", "flips"}:
        raise ValueError("rotation must have exactly block and flips")
    flips = entry["flips"]
    if not isinstance(flips, str):
        raise TypeError("flips must be hexadecimal digits")
    rotation = Rotation(entry["block"], bytes.fromhex(flips))
    rotation.check(in_features)
    return rotation


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
        packed = Packed.checked(d.packing, d.shape, *parts)
        if d.with_types(packed.scales.dtype, packed.parts[-1].dtype) != d:
            found = ", ".join(part.dtype.name for part in packed.parts[1:])
            raise ValueError(f"its scales are not of the type that the description says: {found}")
        return QuantizedArray._of(packed)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: tensor {name!r}: {error}") from None
