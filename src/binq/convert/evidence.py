"""What is known of the inputs of a checkpoint's layers: files of importance and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.checks import check_path
from binq.calibrator import Calibrator
from binq.errors import FormatError
from binq.files.gguf import MAGIC
from binq.files.imatrix import read_imatrix
from binq.methods.moments import Moments, check_moments
from binq.models.gguf_names import llama_cpp_names
from binq.models.tensor import LogicalTensor


@dataclass(frozen=True)
class EvidenceFile:
    """A file of importance or calibration; size and time tell one content from another."""

    path: str
    size: int
    time: int

    @classmethod
    def checked(cls, name: str, path: Any) -> "EvidenceFile | None":
        """Returns the file of the argument ``name``, or None for None."""
        if path is None:
            return None
        absolute = check_path(name, path).absolute()
        status = absolute.stat()
        return cls(str(absolute), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Evidence:
    """Where a tensor's numbers lie.

    - file, name, matrix: of a stack, the first of its matrices in the file
    - moments: whether the method needs moments; else it is the importance of each input
    - centred: whether the tensor's bias takes over what the mean of the inputs costs
    """

    file: EvidenceFile
    name: str
    matrix: int = 0
    moments: bool = False
    centred: bool = False


class Knowledge:
    """The content of one file, read once."""

    def __init__(self, file: EvidenceFile) -> None:
        self.file = file
        with Path(file.path).open("rb") as opened:
            is_gguf = opened.read(len(MAGIC)) == MAGIC
        self._squares = read_imatrix(file.path) if is_gguf else None
        self._calibrator = None if is_gguf else Calibrator.load(file.path)

    def find(self, tensor: LogicalTensor) -> tuple[str, int] | None:
        """Returns under which name a tensor is known, and its first matrix there, or None."""
        names = {*(self._squares or ()), *(self._calibrator or ())}
        for name, matrix in _names(tensor):
            if name in names:
                return name, matrix
        return None

    def importance(self, evidence: Evidence, matrix: int, in_features: int) -> NDArray[np.float32]:
        """Returns the mean square of each input of one matrix of a tensor.

        Raises FormatError where the file knows of another number of inputs or matrices, ValueError
        for moments that do not fit.
        """
        if self._calibrator is not None:
            return self._moments("importance", evidence, in_features).mean_square
        assert self._squares is not None
        squares = self._squares[evidence.name]
        index = evidence.matrix + (matrix if len(squares) > 1 else 0)
        if index >= len(squares) or squares.shape[1] != in_features:
            raise FormatError(
                f"{self.file.path}: {evidence.name!r} must have {in_features} inputs and matrix "
                f"{index}, got shape {squares.shape}"
            )
        return np.ascontiguousarray(squares[index])

    def sensitivity(self, evidence: Evidence) -> float | None:
        """Returns what the model loses with a tensor alone packed, where it was measured."""
        return (
            None if self._calibrator is None else self._calibrator.sensitivities.get(evidence.name)
        )

    def moments(self, evidence: Evidence, in_features: int) -> Moments:
        """Returns the moments of a tensor's inputs.

        Raises ValueError where they do not fit or were not seen often enough.
        """
        if self._calibrator is None:
            raise ValueError(
                f"calibration: {self.file.path} is an imatrix, which has no covariances: give it "
                "as importance= (--importance)"
            )
        return self._moments("calibration", evidence, in_features)

    def _moments(self, what: str, evidence: Evidence, in_features: int) -> Moments:
        assert self._calibrator is not None
        try:
            return check_moments(self._calibrator[evidence.name], in_features)
        except ValueError as error:
            raise ValueError(f"{what}: {evidence.name!r} of {self.file.path}: {error}") from None

    def rows(self, evidence: Evidence) -> int | None:
        """Returns how many rows of a tensor's inputs were seen, None where no file says it."""
        return None if self._calibrator is None else self._calibrator[evidence.name].count


def _names(tensor: LogicalTensor) -> list[tuple[str, int]]:
    """Returns the names that a tensor may have in such a file, and which matrix it is there."""
    names: list[tuple[str, int]] = []
    for name in (tensor.name, *tensor.stored):
        names += [(name, 0), (name.removesuffix(".weight"), 0)]
    return names + llama_cpp_names(tensor.name)


def shown(names: Sequence[str]) -> str:
    """Returns up to three names in quotes, and how many more there are."""
    text = ", ".join(map(repr, names[:3]))
    return text + (f" and {len(names) - 3} more" if len(names) > 3 else "")
