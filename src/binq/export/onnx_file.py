"""ONNX files as this package reads and writes them: tensors one by one, data beside the model.

A protobuf has 2 GiB at most, so that a large model has its tensors in a file beside it. Everything
about protobuf is the ``onnx`` library's, the extra ``binq[onnx]``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from binq.errors import FormatError
from binq.files.replacing import NEW_FILE, remove_abandoned, replacing

# Tensors of more bytes than these, all together, go to a file beside the model.
INLINE_BYTES = 1 << 30
_SMALL = 1 << 10  # a tensor that stays in the model in any case
_ALIGNED = 64


def library() -> Any:
    """Returns the onnx package. Raises ImportError that says how to get it."""
    try:
        import onnx
        import onnx.checker
        import onnx.external_data_helper
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(
            "ONNX files are read and written by the onnx package: pip install 'binq[onnx]'"
        ) from error
    return onnx


class TensorData:
    """Where the bytes of tensors go: into the model, or to a file beside it.

    - file: an open file, None where all stays in the model
    - location: its name, by which the model finds it
    """

    def __init__(self, file: BinaryIO | None = None, location: str = "") -> None:
        self._file, self._location = file, location

    def tensor(self, name: str, values: NDArray[Any]) -> Any:
        """Returns a tensor of these values."""
        onnx = library()
        made = onnx.TensorProto()
        made.name = name
        made.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        made.dims.extend(values.shape)
        self._put(made, np.ascontiguousarray(values).tobytes())
        return made

    def move(self, tensor: Any, base: Path) -> None:
        """Gives a tensor of the model that was read from ``base`` its bytes as they are to be."""
        onnx = library()
        if onnx.external_data_helper.uses_external_data(tensor):
            whole = _with_data(tensor, base)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
            self._put(tensor, whole.raw_data)
        elif tensor.HasField("raw_data"):
            self._put(tensor, tensor.raw_data)

    def _put(self, tensor: Any, data: bytes) -> None:
        if self._file is None or len(data) < _SMALL:
            tensor.raw_data = data
            return
        offset = -(-self._file.tell() // _ALIGNED) * _ALIGNED
        self._file.write(bytes(offset - self._file.tell()))
        self._file.write(data)
        onnx = library()
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        for key, value in (("location", self._location), ("offset", offset), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        tensor.data_location = onnx.TensorProto.EXTERNAL


def data_path(path: Path) -> Path:
    """Returns the place of the file that lies beside a model."""
    return path.with_name(path.name + ".data")


@contextmanager
def tensor_data(path: Path, nbytes: int, mode: int = NEW_FILE) -> Iterator[TensorData]:
    """Gives where the bytes of a model go that will be ``path``: a file beside it if many."""
    if nbytes <= INLINE_BYTES:
        yield TensorData()
        return
    beside = data_path(path)
    remove_abandoned(beside)
    with replacing(beside, mode) as temporary, temporary.open("wb") as file:
        yield TensorData(file, beside.name)
        file.flush()


def read_array(tensor: Any, base: Path) -> NDArray[Any]:
    """Returns the values of a tensor, whose bytes may lie in a file in ``base``."""
    onnx = library()
    if onnx.external_data_helper.uses_external_data(tensor):
        tensor = _with_data(tensor, base)
    try:
        values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    except ValueError as error:  # of fewer bytes than its shape has
        raise FormatError(f"{tensor.name}: {error}") from None
    return values


def _with_data(tensor: Any, base: Path) -> Any:
    """Returns a copy of a tensor with its bytes, which onnx reads from within ``base`` alone."""
    onnx = library()
    whole = onnx.TensorProto()
    whole.CopyFrom(tensor)
    try:
        onnx.external_data_helper.load_external_data_for_tensor(whole, str(base))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise FormatError(f"{tensor.name}: {error}") from None
    return whole


def all_tensors(graph: Any) -> Iterator[Any]:
    """Yields every tensor of a graph and of those within it: initializers and attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
    for inner in inner_graphs(graph):
        yield from all_tensors(inner)


def inner_graphs(graph: Any) -> Iterator[Any]:
    """Yields the graphs that are attributes of a graph's nodes, such as the branches of an If."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def nbits_node(
    onnx: Any, made: Any, x: str, y: str, names: list[str], name: str, level: int
) -> Any:
    """Returns the node MatMulNBits of a matrix, whose initializers have these names."""
    extra = {"accuracy_level": level} if level else {}
    return onnx.helper.make_node(
        "MatMulNBits",
        [x, *names],
        [y],
        name=name,
        domain="com.microsoft",
        K=made.columns,
        N=made.rows,
        bits=made.bits,
        block_size=made.block_size,
        **extra,
    )
