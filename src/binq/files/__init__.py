"""safetensors files that hold packed weights beside ordinary arrays."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.checks import check_path, plain_array
from binq.errors import FormatError
from binq.files import metadata as binq_metadata
from binq.files.dtypes import dtype_name
from binq.files.header import check_name, checked_nbytes, is_unicode
from binq.files.replacing import remove_abandoned, replacing
from binq.files.safetensors import SafetensorsFile
from binq.files.seal import SEAL
from binq.files.writer import check_room, write_arrays

__all__ = ["SafetensorsFile", "load_file", "save_file"]


def save_file(
    tensors: Mapping[str, QuantizedArray | NDArray[Any]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays and packed weights to one safetensors file; returns None.

    A packed tensor NAME is stored as NAME.packed, NAME.scales and, where it has them,
    NAME.zero_points (docs/formats.md). The file appears under its name only when it is complete;
    an error or Ctrl-C leaves what was there before.

    - tensors: name -> QuantizedArray or numpy array of any memory layout and byte order
    - path: the file to write or replace; its folder must exist. A link stays a link: the file
      behind it is replaced
    - metadata: strings to keep in ``__metadata__``; the keys ``"binq"`` and
      ``"binq.sha256"`` are taken

    Raises TypeError for dtypes that safetensors cannot hold and for metadata that are not
    strings, ValueError for names that collide and for names and shapes that cannot be read back.

    >>> import numpy as np, binq, tempfile, pathlib
    >>> q = binq.quantize(np.eye(4, dtype=np.float32), "ternary")
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> binq.save_file({"a.weight": q, "a.bias": np.zeros(4)}, path)
    >>> binq.load_file(path)["a.weight"] == q
    True
    """
    path = check_path("path", path)
    strings = _check_strings(metadata)
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must map names to arrays, got {type(tensors).__name__}")
    arrays: dict[str, NDArray[Any]] = {}
    described = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensor names must be strings, got {name!r}")
        if isinstance(tensor, QuantizedArray):
            d = described[name] = binq_metadata.Description.of(tensor)
            parts = zip(d.part_names(name), tensor._data.parts, strict=True)
        else:
            parts = zip([name], [_check_array(name, tensor)], strict=True)
        for part, array in parts:
            if part in arrays or (part in tensors and part != name):
                raise ValueError(f"two tensors would be stored as {part!r}: rename one")
            _check_readable(part, array)
            arrays[part] = array
    strings[binq_metadata.KEY] = binq_metadata.dump(described)
    check_room(arrays, strings)
    path = path.resolve() if path.is_symlink() else path
    remove_abandoned(path)
    with replacing(path) as temporary:
        write_arrays(arrays, temporary, strings)


def load_file(path: str | os.PathLike[str]) -> dict[str, QuantizedArray | NDArray[Any]]:
    """Returns the tensors of a safetensors file by name, mapped in memory: nothing is copied.

    Packed weights come as QuantizedArray, all else as read-only arrays (bfloat16 and float8 as
    ml_dtypes' types). Any safetensors file loads, not only those that binq wrote; types that numpy
    has no array of (F4, F6) come as the uint8 bytes that hold them, (2, 8) of F4 as (2, 4). The
    file must not be shortened while its arrays are in use.

    - path: the file

    Raises FormatError, naming file, tensor and reason, for a file that is malformed in any way,
    and UnsupportedFormatError for one of a newer format version.

    >>> import numpy as np, binq, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> binq.save_file({"a": np.arange(3)}, path)
    >>> binq.load_file(path)
    {'a': array([0, 1, 2])}
    """
    with SafetensorsFile(path) as file:
        arrays = file.map_all()
        text = file.metadata.get(binq_metadata.KEY)
        described = {} if text is None else binq_metadata.parse(text, file.path)[0]
        result: dict[str, QuantizedArray | NDArray[Any]] = {}
        for name, d in described.items():
            if name in arrays:
                raise FormatError(f"{file.path}: tensor {name!r} is both packed and plain")
            result[name] = binq_metadata.assemble(name, d, arrays, file.path)
        parts = binq_metadata.stored_names(described)
    result.update((name, array) for name, array in arrays.items() if name not in parts)
    return dict(sorted(result.items()))


def _check_strings(metadata: Mapping[str, str] | None) -> dict[str, str]:
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata must map strings to strings, got {type(metadata).__name__}")
    strings = dict(metadata or {})
    for key, value in strings.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(
                f"metadata must map strings to strings, got {key!r}: {value!r}; "
                f"use json.dumps: {json.dumps(str(value))}"
            )
        if not (is_unicode(key) and is_unicode(value)):
            raise ValueError(f"metadata must be valid Unicode, got {key!r}: {value!r}")
    for key in (binq_metadata.KEY, SEAL):
        if key in strings:
            raise ValueError(f"metadata must not have the key {key!r}, which binq writes itself")
    return strings


def _check_readable(name: str, array: NDArray[Any]) -> None:
    """Raises ValueError for a tensor that a file can hold but no reader, ours included, takes."""
    check_name(name)
    try:
        checked_nbytes(dtype_name(array.dtype), array.shape)
    except ValueError as error:
        raise ValueError(f"tensor {name!r}: {error}") from None


def _check_array(name: str, tensor: object) -> NDArray[Any]:
    if not isinstance(tensor, np.ndarray | np.generic):
        raise TypeError(
            f"tensor {name!r} must be a numpy array or a QuantizedArray, "
            f"got {type(tensor).__name__}"
        )
    array = plain_array(f"tensor {name!r}", tensor)
    try:
        dtype_name(array.dtype)
    except TypeError as error:
        raise TypeError(f"tensor {name!r}: {error}") from None
    return array
