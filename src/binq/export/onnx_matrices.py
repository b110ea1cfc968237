"""Packed matrices as one ONNX model: a node MatMulNBits for each, that can be run or copied."""

from pathlib import Path
from typing import Any

import numpy as np

from binq.array.array import QuantizedArray
from binq.convert.shard import Progress
from binq.convert.tensor_report import TensorReport
from binq.export.onnx_file import library, nbits_node, tensor_data
from binq.export.target import Model, Target, refuse
from binq.storage.onnx_writer import matmul_nbits, why_no_bits

# The lowest versions that have what is used.
_OPSET, _IR = 21, 10


class Onnx(Target):
    """One file, whose graph multiplies by each matrix: ``NAME.x`` in, ``NAME.y`` out.

    An input has a default of one row of zeros, so that a single product can be asked for.
    """

    name = "onnx"
    is_file = True
    suffix = ".onnx"

    def check(self, model: Model) -> None:
        library()
        reasons = {}
        for name, weights in model.packed.items():
            if why := why_no_bits(weights):
                reasons[name] = why
        refuse(self.name, reasons)

    def write(self, model: Model, place: Path, advance: Progress) -> list[TensorReport]:
        onnx = library()
        graph = onnx.GraphProto(name="matrices")
        floats = onnx.TensorProto.FLOAT
        reports = []
        nbytes = sum(tensor.bytes_before for tensor in model.tensors if tensor.packed is not None)
        with tensor_data(model.path, nbytes, model.source.mode) as data:
            for tensor in model.tensors:
                if tensor.packed is None:
                    advance(tensor.bytes_before)
                    continue
                weights: QuantizedArray = tensor.packed()
                made = matmul_nbits(weights)
                x, y = f"{tensor.name}.x", f"{tensor.name}.y"
                value = onnx.helper.make_tensor_value_info
                graph.input.append(value(x, floats, ["rows", made.columns]))
                graph.output.append(value(y, floats, ["rows", made.rows]))
                parts: dict[str, Any] = {"codes": made.codes, "scales": made.scales}
                if made.zero_points is not None:
                    parts["zero_points"] = made.zero_points
                names = [f"{tensor.name}.{part}" for part in parts]
                for name, values in zip(names, parts.values(), strict=True):
                    graph.initializer.append(data.tensor(name, values))
                row = np.zeros((1, made.columns), np.float32)
                graph.initializer.append(onnx.numpy_helper.from_array(row, x))
                graph.node.append(nbits_node(onnx, made, x, y, names, tensor.name, 0))
                kind, size = str(weights._data.packing), tensor.bytes_before
                reports.append(
                    TensorReport(tensor.name, tensor.shape, kind, "other", size, made.nbytes)
                )
                advance(size)
            whole = onnx.helper.make_model(
                graph,
                ir_version=_IR,
                producer_name="binq",
                opset_imports=[
                    onnx.helper.make_opsetid("", _OPSET),
                    onnx.helper.make_opsetid("com.microsoft", 1),
                ],
            )
            place.write_bytes(whole.SerializeToString())
        left = len(model.tensors) - len(reports)
        if left:
            model.notes.append(
                f"{left} tensors that are not packed were left out: the file has the packed "
                "matrices, no model"
            )
        return reports
