"""Whole ONNX graphs: MatMul and Gemm with constant weights become MatMulNBits of packed ones."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.array.checks import check_bool, check_int, check_path
from binq.convert.report import Report
from binq.convert.rules import Choice, check_choice_of, parse_rules
from binq.convert.tensor_report import TensorReport
from binq.errors import FormatError, NonFiniteError, UnsupportedFormatError
from binq.export.onnx_file import (
    INLINE_BYTES,
    TensorData,
    all_tensors,
    data_path,
    inner_graphs,
    library,
    nbits_node,
    read_array,
    tensor_data,
)
from binq.files.replacing import remove_abandoned, replacing
from binq.formats.zeros import CODE
from binq.methods.method import Method
from binq.methods.quantize import quantize
from binq.storage.base import to_float32
from binq.storage.onnx_writer import NBits, matmul_nbits, why_no_packing

_DOMAIN = "com.microsoft"
_INITIALIZERS_APART = 4  # from this version of the IR on, an initializer need not be an input


@dataclass
class _Weight:
    """A constant matrix of a graph, and how the nodes that multiply by it have it.

    - inputs_first: whether it is (in_features, out_features)
    - names: of the initializers that hold it packed, once it is
    """

    tensor: Any
    graph: Any
    inputs_first: bool
    choice: Choice
    names: list[str] = field(default_factory=list)
    made: NBits | None = None

    @property
    def shape(self) -> tuple[int, int]:
        first, second = self.tensor.dims
        return (second, first) if self.inputs_first else (first, second)


@dataclass
class _Product:
    """A node that is replaced."""

    graph: Any
    node: Any
    weight: _Weight


def quantize_onnx(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    format: str = "int4",
    *,
    group_size: int | None = 128,
    method: str | Method | None = None,
    symmetric: bool = True,
    rules: Sequence[str] = (),
    accuracy_level: int = 0,
    overwrite: bool = False,
) -> Report:
    """Returns a report of writing an ONNX model whose constant matrices are packed.

    ``MatMul`` and ``Gemm`` nodes whose weights are constants of float32 or float16 become
    ``MatMulNBits`` of ONNX Runtime (com.microsoft), and an ``Add`` where they had a bias; all else
    stays as it is. Graphs within If, Loop and Scan are rewritten too. Needs the extra
    ``binq[onnx]``. Memory is about that of one matrix beside the model without its weights; of a
    model with a gigabyte or more the tensors go to DST.data.

    - src, dst: files
    - format, group_size, method, symmetric: as for :func:`binq.quantize`; ONNX Runtime has no
      offsets, so that asymmetric weights have zero points: int2, int3, int4 and int8
    - rules: ``GLOB=FORMAT[:gN]`` or ``GLOB=keep``, the first that matches the name of a weight or
      of its node decides
    - accuracy_level: how exactly ONNX Runtime takes x: 0 as it is, 4 as 8-bit integers, faster
    - overwrite: replace dst if it exists

    Raises ValueError for settings, FileExistsError for an existing dst, FormatError for what is no
    ONNX model, UnsupportedFormatError where nothing is to be packed, ImportError without onnx.
    """
    onnx = library()
    choice = check_choice_of(format, group_size, method, check_bool("symmetric", symmetric))
    if not choice.packing.symmetric and CODE in choice.packing.kind.zero_kinds:
        choice = replace(choice, packing=replace(choice.packing, zero=CODE))
    parsed = parse_rules(rules, choice)
    check_int("accuracy_level", accuracy_level, 0, 4)
    source, path = Path(check_path("src", src)), Path(os.path.realpath(check_path("dst", dst)))
    started = time.perf_counter()
    model = _loaded(onnx, source)
    _check_target(source, path, overwrite)
    plan = _Plan(onnx, model, choice, parsed)
    if not plan.products:
        left = "; ".join(plan.left) or "it has no MatMul and no Gemm"
        raise UnsupportedFormatError(f"{source}: no matrix is packed: {left}")
    for weight in plan.weights:
        if why := why_no_packing(weight.choice.packing):
            raise UnsupportedFormatError(f"{weight.tensor.name}: MatMulNBits cannot hold {why}")
    report = Report(str(source), str(path), notes=plan.left)
    base, mode = source.resolve().parent, source.stat().st_mode
    external = any(map(onnx.external_data_helper.uses_external_data, all_tensors(model.graph)))
    nbytes = INLINE_BYTES + 1 if external else model.ByteSize()
    remove_abandoned(path)
    with tensor_data(path, nbytes, mode) as data, replacing(path, mode) as temporary:
        for weight in plan.weights:
            report.tensors.append(_pack(onnx, weight, base, data))
        plan.rewrite(accuracy_level)
        for tensor in all_tensors(model.graph):
            if tensor.name not in plan.written:
                data.move(tensor, base)
        temporary.write_bytes(model.SerializeToString())
    report.bytes_done = report.bytes_before
    report.seconds = time.perf_counter() - started
    return report


def _loaded(onnx: Any, source: Path) -> Any:
    data = source.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's own class, which no package of ours may import
        raise FormatError(f"{source}: not an ONNX model: {error}") from None
    if not model.HasField("graph") or not model.graph.node:
        raise FormatError(f"{source}: not an ONNX model: it has no graph")
    return model


def _check_target(source: Path, path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"dst must be a file, got the folder {path}")
    for place in (path, data_path(path)):
        if place.exists() and place.samefile(source):
            raise ValueError(f"dst must not be the source itself, got {path}")
        if place.exists() and not overwrite:
            raise FileExistsError(f"{place} exists: overwrite=True (--overwrite) replaces it")


class _Plan:
    """What becomes of the nodes of a model.

    - products, weights: what is replaced, and each matrix once
    - left: why others stay, a sentence each
    """

    def __init__(self, onnx: Any, model: Any, default: Choice, rules: Sequence[Any]) -> None:
        self._onnx, self._model = onnx, model
        self._default, self._rules = default, rules
        self.products: list[_Product] = []
        self.weights: list[_Weight] = []
        self._why: Counter[str] = Counter()
        # What nodes make of constants, to be taken away where nothing is left that uses it.
        self._feeding: set[str] = set()
        self._used = set(_names(model.graph))
        self._uses_before = set(_uses(model.graph))
        self._walk(model.graph, {})

    @property
    def left(self) -> list[str]:
        return [
            f"{count} products were left as they are: {why}" for why, count in self._why.items()
        ]

    @property
    def written(self) -> set[str]:
        """Returns the names of the tensors whose bytes are where they are to be."""
        return {name for weight in self.weights for name in weight.names}

    def _walk(self, graph: Any, outer: dict[str, Any]) -> None:
        inputs = {value.name for value in graph.input}
        known = dict(outer)
        for tensor in graph.initializer:
            fixed = tensor.name not in inputs or self._model.ir_version < _INITIALIZERS_APART
            known[tensor.name] = (tensor, graph, False) if fixed else None
        for name in inputs:
            known.setdefault(name, None)
        for node in graph.node:
            self._see(graph, node, known)
            if node.domain in ("", "ai.onnx") and node.op_type in ("MatMul", "Gemm"):
                self._take(graph, node, known)
        for inner in inner_graphs(graph):
            self._walk(inner, known)

    def _see(self, graph: Any, node: Any, known: dict[str, Any]) -> None:
        """Notes what a node makes of constants: a Constant, or one with its axes exchanged."""
        for output in node.output:
            known[output] = None  # hides one of an outer graph
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    attribute.t.name = node.output[0]
                    known[node.output[0]] = (attribute.t, graph, False)
                    self._feeding.add(node.output[0])
        elif node.op_type == "Transpose" and known.get(node.input[0]):
            tensor, owner, turned = known[node.input[0]]
            order = [list(a.ints) for a in node.attribute if a.name == "perm"]
            if len(tensor.dims) == 2 and order in ([], [[1, 0]]):
                known[node.output[0]] = (tensor, owner, not turned)
                self._feeding.add(node.output[0])

    def _take(self, graph: Any, node: Any, known: dict[str, Any]) -> None:
        found = known.get(node.input[1])
        if not found:
            self._why["their second factor is not a constant"] += 1
            return
        tensor, owner, turned = found
        attributes = {a.name: a for a in node.attribute}
        why = self._why_not(tensor, attributes)
        if why:
            self._why[why] += 1
            return
        transposed = "transB" in attributes and attributes["transB"].i == 1
        inputs_first = turned == transposed
        choice = self._choice(tensor.name, node.name)
        if choice is None:
            self._why["a rule keeps them"] += 1
            return
        for weight in self.weights:
            same = weight.tensor is tensor and weight.inputs_first == inputs_first
            if same and weight.choice == choice:
                break
        else:
            weight = _Weight(tensor, owner, inputs_first, choice)
            self.weights.append(weight)
            ends = ("_codes", "_scales", "_zero_points")
            weight.names = [self._new(tensor.name + end) for end in ends]
        self.products.append(_Product(graph, node, weight))

    def _why_not(self, tensor: Any, attributes: dict[str, Any]) -> str:
        types = self._onnx.TensorProto
        if len(tensor.dims) != 2:
            return f"their weights have {len(tensor.dims)} axes"
        if tensor.data_type not in (types.FLOAT, types.FLOAT16):
            return f"their weights are {types.DataType.Name(tensor.data_type)}"
        if 0 in tensor.dims:
            return "they have no weights at all"
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        for name, usual in plain.items():
            if name in attributes:
                value = attributes[name].i if name == "transA" else attributes[name].f
                if value != usual:
                    return f"Gemm with {name} {value:g}"
        return ""

    def _choice(self, *names: str) -> Choice | None:
        for rule in self._rules:
            if any(name and rule.matches(name) for name in names):
                found: Choice | None = rule.choice
                return found
        return self._default

    def _new(self, name: str) -> str:
        """Returns a name that nothing in the model has."""
        number, found = 0, name
        while found in self._used:
            number += 1
            found = f"{name}_{number}"
        self._used.add(found)
        return found

    def rewrite(self, accuracy_level: int) -> None:
        """Replaces the nodes, and takes away the matrices that nothing uses any more."""
        for product in self.products:
            nodes = self._replacing(product, accuracy_level)
            at = next(i for i, node in enumerate(product.graph.node) if node is product.node)
            product.node.CopyFrom(nodes[0])
            for place, node in enumerate(nodes[1:], at + 1):
                product.graph.node.insert(place, node)
        if all(entry.domain != _DOMAIN for entry in self._model.opset_import):
            self._model.opset_import.add(domain=_DOMAIN, version=1)
        before, used = self._uses_before, set(_uses(self._model.graph))
        while unused := (self._feeding & before) - used:
            for graph in _graphs(self._model.graph):
                _remove(graph.node, lambda node: bool(unused & set(node.output)))
            self._feeding -= unused
            used = set(_uses(self._model.graph))
        gone = {weight.tensor.name for weight in self.weights} - used
        for graph in _graphs(self._model.graph):
            for values in (graph.initializer, graph.input):
                _remove(values, lambda value: value.name in gone)

    def _replacing(self, product: _Product, level: int) -> list[Any]:
        node, weight = product.node, product.weight
        assert weight.made is not None
        (y,) = node.output
        biased = node.op_type == "Gemm" and len(node.input) > 2 and node.input[2]
        made = self._new(f"{y}_product") if biased else y
        name = self._new(f"{node.name}_nbits") if node.name else ""
        x = node.input[0]
        nodes = [nbits_node(self._onnx, weight.made, x, made, weight.names, name, level)]
        if biased:
            nodes.append(self._onnx.helper.make_node("Add", [made, node.input[2]], [y]))
        return nodes


def _remove(values: Any, which: Callable[[Any], bool]) -> None:
    for at in range(len(values) - 1, -1, -1):
        if which(values[at]):
            del values[at]


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for inner in inner_graphs(graph):
        yield from _graphs(inner)


def _uses(graph: Any) -> Iterator[str]:
    for one in _graphs(graph):
        yield from (value.name for value in one.output)
        for node in one.node:
            yield from node.input


def _names(graph: Any) -> Iterator[str]:
    for one in _graphs(graph):
        for values in (one.input, one.output, one.initializer, one.value_info):
            yield from (value.name for value in values)
        for node in one.node:
            yield from (node.name, *node.input, *node.output)


def _pack(onnx: Any, weight: _Weight, base: Path, data: TensorData) -> TensorReport:
    """Returns a report of one matrix, whose packed form is put beside it in its graph."""
    started = time.perf_counter()
    name = weight.tensor.name
    values: NDArray[Any] = read_array(weight.tensor, base)
    half = values.dtype == np.float16
    w = values.T if weight.inputs_first else values
    packing = weight.choice.packing
    settings: dict[str, Any] = {
        "format": packing.format,
        "group_size": packing.fitted(w.shape[1]).group_size,
        "method": weight.choice.method,
        "symmetric": packing.symmetric,
        "zero": None if packing.symmetric else packing.zero,
    }
    try:
        q: QuantizedArray = quantize(w, **settings)
        made = matmul_nbits(q)
    except (NonFiniteError, UnsupportedFormatError) as error:
        raise type(error)(f"{name}: {error}") from None
    if half and not made.in_float16:
        raise UnsupportedFormatError(
            f"{name}: scales that float16 does not hold, in a graph of float16: a rule "
            f"'{name}=keep' leaves it"
        )
    weight.made = made
    scales = made.scales.astype(np.float16) if half else made.scales
    parts = [made.codes, scales] + ([] if made.zero_points is None else [made.zero_points])
    weight.names = weight.names[: len(parts)]
    for part, values in zip(weight.names, parts, strict=True):
        weight.graph.initializer.append(data.tensor(part, values))
    noise, signal = _errors(q.dequantize(), to_float32(w))
    return TensorReport(
        name,
        weight.shape,
        str(q._data.packing),
        "linear",
        w.nbytes,
        sum(part.nbytes for part in parts),
        sqnr_db=float(10 * np.log10(signal / noise)) if noise and signal else None,
        seconds=time.perf_counter() - started,
        signal=signal,
    )


def _errors(found: NDArray[np.float32], w: NDArray[np.float32]) -> tuple[float, float]:
    """Returns the sums of the squares of errors and weights."""
    difference = (found - w).ravel()
    plain = np.ascontiguousarray(w).ravel()
    return (
        float(np.einsum("i,i", difference, difference, dtype=np.float64)),
        float(np.einsum("i,i", plain, plain, dtype=np.float64)),
    )
