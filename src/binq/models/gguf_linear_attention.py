"""Linear attention of Qwen 3.5 as llama.cpp stores it, turned back.

Each key head serves several value heads. Hugging Face has the value heads of one key head side by
side; llama.cpp has the first of each key head, then the second of each. ``ssm_a`` is -exp(A_log).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from binq.errors import FormatError, UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.models.gguf_rotation import is_grouped
from binq.models.tensor import LogicalTensor
from binq.storage.base import Storage
from binq.storage.rotated import Rotated
from binq.storage.turned import Order, Turned, Undone

NAMES = {
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
}


@dataclass(frozen=True)
class _Heads:
    """Key heads, value heads of each, and the widths of a key head and of a value head."""

    keys: int
    values: int
    key_width: int
    value_width: int

    def order(self, width: int, start: int = 0) -> Order:
        """Returns the order of value heads of ``width`` rows each."""
        return Order((self.values, self.keys, width), (0, 1), start)

    @property
    def first(self) -> int:
        """Returns the row of the first value head, behind queries and keys."""
        return 2 * self.keys * self.key_width


def turn_back(source: Checkpoint, tensor: LogicalTensor, what: str) -> Storage:
    """Returns a tensor of linear attention as Hugging Face has it; ``what`` is a key of NAMES.

    Raises FormatError where the metadata do not fit the shape.
    """
    storage = tensor.storage
    if what == "ssm_norm.weight":
        return storage
    heads = _heads(source, tensor)
    axes = 1 if what in ("ssm_a", "ssm_dt.bias") else 2
    if len(tensor.shape) != axes:
        raise FormatError(
            f"{source.path}: {tensor.name!r} has shape {tensor.shape}, expected {axes} axes"
        )
    if what == "ssm_out.weight":
        # Rotated weights read inputs that the graph has put in Hugging Face's order before.
        if isinstance(storage, Rotated):
            if not is_grouped(source):
                raise UnsupportedFormatError(
                    f"{source.path}: {tensor.name!r} is in a rotated basis of value heads in "
                    "llama.cpp's order, which is not supported"
                )
            return storage
        return Turned(storage, columns=heads.order(heads.value_width))
    if what == "attn_gate.weight":
        return Turned(storage, heads.order(heads.value_width))
    if what == "attn_qkv.weight":
        return Turned(storage, heads.order(heads.value_width, heads.first))
    if what == "ssm_conv1d.weight":
        turned = Turned(storage, heads.order(heads.value_width, heads.first))
        channels, width = tensor.shape
        return Undone(turned, "itself", (channels, 1, width))
    turned = Turned(storage, heads.order(1))
    return Undone(turned, "log of -x", tensor.shape) if what == "ssm_a" else turned


def _heads(source: Checkpoint, tensor: LogicalTensor) -> _Heads:
    keys, values, key_width, inner = (
        _number(source.config, name)
        for name in ("ssm.group_count", "ssm.time_step_rank", "ssm.state_size", "ssm.inner_size")
    )
    if not keys or not values or not inner or values % keys or inner % values or not key_width:
        raise FormatError(
            f"{source.path}: {tensor.name!r} has value heads in llama.cpp's order, of which "
            f"ssm.group_count = {keys}, ssm.time_step_rank = {values}, ssm.state_size = "
            f"{key_width} and ssm.inner_size = {inner} do not tell the number"
        )
    return _Heads(keys, values // keys, key_width, inner // values)


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(f"{config.get('general.architecture')}.{name}")
    return value if type(value) is int and 0 < value < 1 << 24 else 0
