"""llama.cpp and its fork ik_llama.cpp as rivals: their kernels, called through ctypes.

Multipliers as rivals.py describes them. ``BINQ_BENCH_LLAMA`` names the folder of a built llama.cpp
whose libggml*.so take the place of llama-cpp-python's, so that kernels for another kind of
processor can be measured; ``BINQ_BENCH_IK`` the folder that holds the libggml.so of a built
ik_llama.cpp.
"""

import ctypes
import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cases import Floats

LLAMA_FOLDER = os.environ.get("BINQ_BENCH_LLAMA")
IK_FOLDER = os.environ.get("BINQ_BENCH_IK")


class _GgmlInit(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Ggml:
    """The few functions of ggml's shared libraries that a matrix product needs."""

    def __init__(self, base: Path, cpu: Path, mode: int) -> None:
        self.base, self.cpu = (ctypes.CDLL(str(path), mode=mode) for path in (base, cpu))
        P, N = ctypes.c_void_p, ctypes.c_int64
        self.init = self.bind(self.base, "ggml_init", P, _GgmlInit)
        self.tensor = self.bind(self.base, "ggml_new_tensor_2d", P, P, ctypes.c_int, N, N)
        self.mul_mat = self.bind(self.base, "ggml_mul_mat", P, P, P, P)
        self.graph = self.bind(
            self.base, "ggml_new_graph_custom", P, P, ctypes.c_size_t, ctypes.c_bool
        )
        self.expand = self.bind(self.base, "ggml_build_forward_expand", None, P, P)
        self.allocate = self.bind(self.base, "ggml_backend_alloc_ctx_tensors", P, P, P)
        self.allocate_in = self.bind(self.base, "ggml_backend_alloc_ctx_tensors_from_buft", P, P, P)
        self.set = self.bind(
            self.base, "ggml_backend_tensor_set", None, P, P, ctypes.c_size_t, ctypes.c_size_t
        )
        self.get = self.bind(
            self.base, "ggml_backend_tensor_get", None, P, P, ctypes.c_size_t, ctypes.c_size_t
        )
        self.compute = self.bind(self.base, "ggml_backend_graph_compute", ctypes.c_int, P, P)
        self.backend = self.bind(self.cpu, "ggml_backend_cpu_init", P)
        self.threads = self.bind(self.cpu, "ggml_backend_cpu_set_n_threads", None, P, ctypes.c_int)
        self.plain = self.bind(self.base, "ggml_backend_cpu_buffer_type", P)
        # The last is ik_llama.cpp's own, and stays unread by llama.cpp.
        self.quantize = self.bind(
            self.base, "ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int, P, P, N, N, N, P, P
        )

    @staticmethod
    def bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
        return function  # type: ignore[no-any-return]

    def repacked(self) -> int | None:
        """Returns ggml's own interleaved buffer type, its fastest, or None."""
        P = ctypes.c_void_p
        register = self.bind(self.cpu, "ggml_backend_cpu_reg", P)()
        address = self.bind(self.base, "ggml_backend_reg_get_proc_address", P, P, ctypes.c_char_p)(
            register, b"ggml_backend_dev_get_extra_bufts"
        )
        device = self.bind(self.base, "ggml_backend_reg_dev_get", P, P, ctypes.c_size_t)(
            register, 0
        )
        name = self.bind(self.base, "ggml_backend_buft_name", ctypes.c_char_p, P)
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

    @staticmethod
    @cache
    def library() -> Ggml:
        if LLAMA_FOLDER:
            lib = Path(LLAMA_FOLDER)
        else:
            spec = importlib.util.find_spec("llama_cpp")
            if spec is None or spec.origin is None:
                raise ImportError("llama_cpp")
            lib = Path(spec.origin).parent / "lib"
        ggml = Ggml(lib / "libggml-base.so", lib / "libggml-cpu.so", ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(lib / "libggml.so"), mode=ctypes.RTLD_GLOBAL)
        return ggml

    def __init__(self, w: Floats, x: Floats, copies: int, threads: int) -> None:
        g = self.library()
        out_features, in_features = w.shape
        blob = np.empty(w.size * 4 + 1024, np.uint8)
        w = np.ascontiguousarray(w)
        nbytes = g.quantize(
            self.ggml_type,
            w.ctypes.data,
            blob.ctypes.data,
            0,
            out_features,
            in_features,
            None,
            None,
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


class IkLlamaCpp(LlamaCpp):
    """ik_llama.cpp's kernels for one of its types, rows interleaved where the name ends in R."""

    @staticmethod
    @cache
    def library() -> Ggml:
        # Names that llama.cpp has too must stay apart.
        file = Path(str(IK_FOLDER)) / "libggml.so"
        return Ggml(file, file, ctypes.RTLD_LOCAL | os.RTLD_DEEPBIND)
