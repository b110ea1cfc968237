"""Types of the native door: every call of binq into compiled code goes through here.

Arguments are trusted: binq's Python modules check them and word the errors. Buffers are passed as
C-contiguous uint8 arrays (``array.reshape(-1).view(np.uint8)``); read-only buffers are fine for
inputs.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from binq._native.spec import FormatSpec

Bytes: TypeAlias = NDArray[np.uint8]

FORMAT_SPECS: Final[tuple[FormatSpec, ...]]
SCALE_TYPES: Final[dict[str, int]]
ACTIVATIONS: Final[dict[str, int]]
METHODS: Final[dict[str, int]]
ZEROS: Final[dict[str, int]]
INPUT_TYPES: Final[dict[str, int]]
STORED_KINDS: Final[dict[str, int]]
STATUS_NONFINITE: Final[int]
STATUS_SCALE_RANGE: Final[int]
PARALLEL_COST: Final[int]
MAX_THREADS: Final[int]

def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> None: ...
def cpu_features() -> dict[str, bool]: ...
def get_num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def work_alone() -> None: ...

class PackedMatrix:
    def __init__(
        self,
        format: int,
        zero: int,
        packed: Bytes,
        scales: Bytes,
        zeros: Bytes | None,
        out_features: int,
        in_features: int,
        group_size: int,
        scale_type: int,
        offset_type: int,
    ) -> None: ...
    def multiply(
        self, x: NDArray[np.float32], out: NDArray[np.float32], activations: int
    ) -> None: ...
    def dequantize(self, out: NDArray[np.float32]) -> None: ...
    def dequantize_rows(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None: ...
    def unpack(self, codes: NDArray[np.int8]) -> None: ...
    def measure(
        self, values: Bytes, input_type: int, row_stride: int, errors: NDArray[np.float64]
    ) -> None: ...

class StoredRows:
    def __init__(
        self,
        kind: int,
        data: Bytes,
        stride: int,
        rows: int,
        columns: int,
        input_type: int,
        scales: NDArray[np.float32] | None,
        zeros: NDArray[np.int16] | None,
        order: NDArray[np.int32] | None,
        group: int,
        bits: int,
        is_signed: bool,
    ) -> None: ...
    @property
    def input_type(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def decode(self, step: int, out: Bytes) -> None: ...
    def quantize(
        self,
        format: int,
        zero: int,
        method: int,
        group_size: int,
        scale_type: int,
        offset_type: int,
        packed: Bytes,
        scales: Bytes,
        zeros: Bytes | None,
        errors: NDArray[np.float64],
    ) -> int: ...
    def measure(self, matrix: PackedMatrix, errors: NDArray[np.float64]) -> None: ...
    def pack(
        self,
        format: int,
        zero: int,
        low: int,
        high: int,
        centred: bool,
        packed: Bytes,
        group_size: int,
    ) -> bool: ...

class PreparedRows:
    def __init__(self, like: PackedMatrix, x: NDArray[np.float32], activations: int) -> None: ...
    def multiply(
        self, matrices: tuple[PackedMatrix, ...], outs: tuple[NDArray[np.float32], ...]
    ) -> None: ...

def multiply_shared(
    matrices: tuple[PackedMatrix, ...],
    x: NDArray[np.float32],
    outs: tuple[NDArray[np.float32], ...],
    activations: int,
) -> None: ...
def multiply_experts(
    matrices: tuple[PackedMatrix, ...],
    experts: NDArray[np.int64],
    ends: NDArray[np.int64],
    x: NDArray[np.float32],
    out: NDArray[np.float32],
    activations: int,
) -> None: ...

class DecoderLayer:
    def __init__(
        self,
        matrices: tuple[PackedMatrix, ...],
        biases: tuple[NDArray[np.float32] | None, ...],
        norms: tuple[NDArray[np.float32] | None, ...],
        heads: int,
        kv_heads: int,
        size: int,
        eps: float,
        scale: float,
        window: int,
        activations: int,
    ) -> None: ...
    def run(
        self,
        x: NDArray[np.float32],
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        start: int,
    ) -> None: ...

def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, out: NDArray[np.float32]
) -> None: ...
def rope(
    x: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None: ...
def silu_mul(
    gate: NDArray[np.float32], up: NDArray[np.float32], out: NDArray[np.float32]
) -> None: ...
def rotate(
    x: NDArray[np.float32],
    signs: NDArray[np.float32],
    block: int,
    scale: float,
    back: bool,
    out: NDArray[np.float32],
) -> None: ...
def softmax(x: NDArray[np.float32], out: NDArray[np.float32]) -> None: ...
def store_keys(
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    start: int,
) -> None: ...
def attention(
    q: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    length: int,
    window: int,
    scale: float,
    out: NDArray[np.float32],
) -> None: ...
def wrap_rows(rows: NDArray[np.int64], count: int) -> int: ...
def take_rows(
    stored: Bytes, tile_bytes: int, word: int, rows: NDArray[np.int64], out: Bytes
) -> None: ...
def pack(
    format: int,
    zero: int,
    codes: NDArray[np.int8],
    packed: Bytes,
    group_size: int,
) -> None: ...
def quantize(
    format: int,
    zero: int,
    method: int,
    values: Bytes,
    input_type: int,
    row_stride: int,
    out_features: int,
    in_features: int,
    group_size: int,
    scale_type: int,
    offset_type: int,
    packed: Bytes,
    scales: Bytes,
    zeros: Bytes | None,
) -> int: ...
