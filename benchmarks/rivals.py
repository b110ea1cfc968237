"""The libraries that binq is timed against, each behind the same three attributes.

A multiplier holds ``copies`` quantized copies of one weight matrix and one x:
    multiply()       multiplies x by every copy once
    result()         y of the last multiply, float32 (rows, out)
    bits_per_weight  storage of one matrix, scales included
``MULTIPLIERS`` maps the name a table shows to the class; a library that is not installed leaves
its classes out of it.
"""

import copy
import importlib.util
from typing import Any

import numpy as np
from cases import GROUP_SIZE, Floats
from ggml import IK_FOLDER, LLAMA_FOLDER, IkLlamaCpp, LlamaCpp

import binq


class Numpy:
    """float32 weights through numpy's BLAS: what a user does without a low-bit library."""

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self.bits_per_weight = 32.0
        self.w = [w.copy() for _ in range(copies)]
        self.x = x
        self.limits = threadpool_limits(threads, user_api="blas")

    def multiply(self) -> None:
        for w in self.w:
            self.y = self.x @ w.T

    def result(self) -> Floats:
        return self.y


class Binq:
    """binq in one format and one activation mode."""

    format = "int4"
    activations = "int16"

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        method = "absmax" if self.format in ("int4", "int8") else "absmean"
        q = binq.quantize(w, self.format, group_size=GROUP_SIZE, method=method)
        self.bits_per_weight = q.bits_per_weight
        self.q = [copy.deepcopy(q) for _ in range(copies)]
        self.x = x
        self.y = np.empty((len(x), len(w)), np.float32)
        binq.set_num_threads(threads)

    def multiply(self) -> None:
        for q in self.q:
            binq.linear(self.x, q, activations=self.activations, out=self.y)

    def result(self) -> Floats:
        return self.y


def binq_class(format: str, activations: str) -> type[Binq]:
    return type("Binq", (Binq,), {"format": format, "activations": activations})


class OnnxRuntime:
    """onnxruntime's MatMulNBits of 4 or 8 bits, accuracy_level 4 (int8 activations)."""

    bits = 4
    block = 128

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        out_features, in_features = w.shape
        q = binq.quantize(w, f"int{self.bits}", group_size=self.block, method="absmax")
        codes = (q.codes().astype(np.int16) + (1 << self.bits - 1)).astype(np.uint8)
        if self.bits == 4:
            codes = codes[:, 0::2] | codes[:, 1::2] << 4
        packed = codes.reshape(out_features, in_features // self.block, -1)
        scales = q.group_scales().astype(np.float32)
        self.bits_per_weight = self.bits + 32 / self.block
        nodes, initializers, outputs = [], [], []
        for i in range(copies):
            # Rotated by i rows: onnxruntime keeps equal weights once, and would find them cached.
            initializers += [
                numpy_helper.from_array(np.roll(packed, i, axis=0), f"b{i}"),
                numpy_helper.from_array(np.roll(scales, i, axis=0), f"s{i}"),
            ]
            nodes.append(
                helper.make_node(
                    "MatMulNBits",
                    ["x", f"b{i}", f"s{i}"],
                    [f"y{i}"],
                    domain="com.microsoft",
                    K=in_features,
                    N=out_features,
                    bits=self.bits,
                    block_size=self.block,
                    accuracy_level=4,
                )
            )
            shape = [len(x), out_features]
            outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, shape))
        graph = helper.make_graph(
            nodes,
            "rival",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
            outputs,
            initializers,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 9
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.x = x

    def multiply(self) -> None:
        self.y = self.session.run(None, {"x": self.x})

    def result(self) -> Floats:
        y: Floats = self.y[0]
        return y


def _available(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def multipliers() -> dict[str, Any]:
    """Returns name -> class for binq in every format and mode and for each installed rival."""
    found: dict[str, Any] = {"numpy float32": Numpy}
    for format in ("binary", "ternary", "int4", "int8"):
        for mode in ("int8", "int16", "float32"):
            found[f"binq {format} {mode}"] = binq_class(format, mode)
    if _available("onnx", "onnxruntime"):
        for bits, block in ((4, 128), (4, 32), (8, 128), (8, 32)):
            kind = {"bits": bits, "block": block}
            found[f"onnxruntime int{bits} g{block}"] = type("Onnx", (OnnxRuntime,), kind)
    if LLAMA_FOLDER or _available("llama_cpp"):
        for name, ggml_type in (("Q4_0", 2), ("Q8_0", 8), ("TQ2_0", 35), ("Q1_0", 41)):
            found[f"llama.cpp {name}"] = type("Ggml", (LlamaCpp,), {"ggml_type": ggml_type})
        found["llama.cpp Q4_0 repacked"] = type("Ggml", (LlamaCpp,), {"repack": True})
    if IK_FOLDER:
        for name, ggml_type in (("Q4_0_R8", 202), ("IQ2_BN_R4", 335), ("Q1_0_G128", 41)):
            kind = {"ggml_type": ggml_type}
            found[f"ik_llama.cpp {name}"] = type("Ik", (IkLlamaCpp,), kind)
    return found


MULTIPLIERS = multipliers()
