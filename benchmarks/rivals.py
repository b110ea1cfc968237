"""The libraries that binq is timed against, each behind the same three attributes.

A multiplier holds ``copies`` quantized copies of one weight matrix and one x:
    multiply()       multiplies x by every copy once
    result()         y of the last multiply, float32 (rows, out)
    bits_per_weight  storage of one matrix, scales included
``MULTIPLIERS`` maps the name a table shows to the class; a library that is not installed leaves
its classes out of it.
"""

import copy
import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import GROUP_SIZE, Floats

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
        method = "absmax" if self.format == "int4" else "absmean"
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
    """onnxruntime's MatMulNBits: int4 in blocks of 128, accuracy_level 4 (int8 activations)."""

    block = 128

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        out_features, in_features = w.shape
        q = binq.quantize(w, "int4", group_size=self.block, method="absmax")
        codes = (q.codes() + 8).astype(np.uint8)
        packed = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(
            out_features, in_features // self.block, self.block // 2
        )
        scales = q.group_scales().astype(np.float32)
        self.bits_per_weight = 4 + 32 / self.block
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
                    bits=4,
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


class _GgmlInit(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class _Ggml:
    """The few ggml functions a matrix product needs, from llama-cpp-python's shared libraries."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise ImportError("llama_cpp")
        lib = Path(spec.origin).parent / "lib"
        self.base, self.cpu, _ = (
            ctypes.CDLL(str(lib / f"lib{name}.so"), mode=ctypes.RTLD_GLOBAL)
            for name in ("ggml-base", "ggml-cpu", "ggml")
        )
        P, N = ctypes.c_void_p, ctypes.c_int64
        self.init = self._bind(self.base, "ggml_init", P, _GgmlInit)
        self.tensor = self._bind(self.base, "ggml_new_tensor_2d", P, P, ctypes.c_int, N, N)
        self.mul_mat = self._bind(self.base, "ggml_mul_mat", P, P, P, P)
        self.graph = self._bind(
            self.base, "ggml_new_graph_custom", P, P, ctypes.c_size_t, ctypes.c_bool
        )
        self.expand = self._bind(self.base, "ggml_build_forward_expand", None, P, P)
        self.allocate = self._bind(self.base, "ggml_backend_alloc_ctx_tensors", P, P, P)
        self.allocate_in = self._bind(
            self.base, "ggml_backend_alloc_ctx_tensors_from_buft", P, P, P
        )
        self.set = self._bind(
            self.base, "ggml_backend_tensor_set", None, P, P, ctypes.c_size_t, ctypes.c_size_t
        )
        self.get = self._bind(
            self.base, "ggml_backend_tensor_get", None, P, P, ctypes.c_size_t, ctypes.c_size_t
        )
        self.compute = self._bind(self.base, "ggml_backend_graph_compute", ctypes.c_int, P, P)
        self.backend = self._bind(self.cpu, "ggml_backend_cpu_init", P)
        self.threads = self._bind(self.cpu, "ggml_backend_cpu_set_n_threads", None, P, ctypes.c_int)
        self.plain = self._bind(self.base, "ggml_backend_cpu_buffer_type", P)
        self.quantize = self._bind(
            self.base, "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, P, P, N, N, N, P
        )

    @staticmethod
    def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function  # type: ignore[no-any-return]

    def repacked(self) -> int | None:
        """Returns ggml's own interleaved buffer type, its fastest, or None."""
        P = ctypes.c_void_p
        register = self._bind(self.cpu, "ggml_backend_cpu_reg", P)()
        address = self._bind(self.base, "ggml_backend_reg_get_proc_address", P, P, ctypes.c_char_p)(
            register, b"ggml_backend_dev_get_extra_bufts"
        )
        device = self._bind(self.base, "ggml_backend_reg_dev_get", P, P, ctypes.c_size_t)(
            register, 0
        )
        name = self._bind(self.base, "ggml_backend_buft_name", ctypes.c_char_p, P)
        if not address:
            return None
        types = ctypes.CFUNCTYPE(ctypes.POINTER(P), P)(address)(device)
        i = 0
        while types and types[i]:
            if b"REPACK" in name(types[i]):
                return int(types[i])
            i += 1
        return None


class LlamaCpp:
    """llama.cpp's kernels for one ggml type; ``repack`` chooses its interleaved layout."""

    ggml_type = 2
    repack = False
    library: _Ggml | None = None

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        g = LlamaCpp.library = LlamaCpp.library or _Ggml()
        out_features, in_features = w.shape
        blob = np.empty(w.size * 4 + 1024, np.uint8)
        w = np.ascontiguousarray(w)
        nbytes = g.quantize(
            self.ggml_type, w.ctypes.data, blob.ctypes.data, 0, out_features, in_features, None
        )
        self.bits_per_weight = nbytes * 8 / w.size
        backend = g.backend()
        g.threads(backend, threads)
        holder = g.init(_GgmlInit(1 << 20, None, True))
        matrices = [
            g.tensor(holder, self.ggml_type, in_features, out_features) for _ in range(copies)
        ]
        kind = g.repacked() if self.repack else g.plain()
        if kind is None or not g.allocate_in(holder, kind):
            raise ImportError("this build of ggml has no repacked layout")
        for matrix in matrices:
            g.set(matrix, blob.ctypes.data, 0, nbytes)
        context = g.init(_GgmlInit(8 << 20, None, True))
        x_tensor = g.tensor(context, 0, in_features, len(x))
        self.outputs = [g.mul_mat(context, matrix, x_tensor) for matrix in matrices]
        self.graph = g.graph(context, 4096, False)
        for y in self.outputs:
            g.expand(self.graph, y)
        g.allocate(context, backend)
        x = np.ascontiguousarray(x)
        g.set(x_tensor, x.ctypes.data, 0, x.nbytes)
        self.g, self.backend, self.shape = g, backend, (len(x), out_features)

    def multiply(self) -> None:
        self.g.compute(self.backend, self.graph)

    def result(self) -> Floats:
        y = np.empty(self.shape, np.float32)
        self.g.get(self.outputs[-1], y.ctypes.data, 0, y.nbytes)
        return y


def _available(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def multipliers() -> dict[str, Any]:
    """Returns name -> class for binq in every format and mode and for each installed rival."""
    found: dict[str, Any] = {"numpy float32": Numpy}
    for format in ("binary", "ternary", "int4"):
        for mode in ("int8", "int16", "float32"):
            found[f"binq {format} {mode}"] = binq_class(format, mode)
    if _available("onnx", "onnxruntime"):
        for block in (128, 32):
            found[f"onnxruntime int4 g{block}"] = type("Onnx", (OnnxRuntime,), {"block": block})
    if _available("llama_cpp"):
        for name, ggml_type in (("Q4_0", 2), ("TQ2_0", 35), ("Q1_0", 41)):
            found[f"llama.cpp {name}"] = type("Ggml", (LlamaCpp,), {"ggml_type": ggml_type})
        found["llama.cpp Q4_0 repacked"] = type("Ggml", (LlamaCpp,), {"repack": True})
    return found


MULTIPLIERS = multipliers()
