"""The table of targets, by what ``--to`` says: one row each."""

from binq.export.folder import FolderTarget
from binq.export.gguf import Gguf
from binq.export.target import Target

TARGETS: dict[str, Target] = {
    "compressed-tensors": FolderTarget("compressed-tensors"),
    "gguf": Gguf(),
    "mlx": FolderTarget("mlx"),
    "gptq": FolderTarget("gptq"),
    "awq": FolderTarget("awq"),
    "bitnet": FolderTarget("bitnet"),
}
