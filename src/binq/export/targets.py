"""The table of targets, by what ``--to`` says: one row each."""

from binq.array.checks import check_choice
from binq.errors import UnsupportedFormatError
from binq.export.folder import FolderTarget
from binq.export.gguf import Gguf
from binq.export.mlx import Mlx
from binq.export.onnx_matrices import Onnx
from binq.export.target import Target
from binq.storage.scheme import get

TARGETS: dict[str, Target] = {
    "compressed-tensors": FolderTarget("compressed-tensors"),
    "gguf": Gguf(),
    "mlx": Mlx(),
    "gptq": FolderTarget("gptq"),
    "awq": FolderTarget("awq"),
    "bitnet": FolderTarget("bitnet"),
    "onnx": Onnx(),
}


def find_target(name: object, argument: str = "to") -> Target:
    """Returns the target of a name: one of the table, or a registered scheme that writes.

    Raises ValueError, naming the argument, for any other name, TypeError for what is not a string.
    """
    if isinstance(name, str) and name not in TARGETS:
        try:
            scheme = get(name)
        except UnsupportedFormatError:
            scheme = None
        if scheme is not None and scheme.writes:
            return FolderTarget(name)
    return TARGETS[check_choice(argument, name, TARGETS)]
