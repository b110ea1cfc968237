"""The metadata of a GGUF file by name; what is missing or strange is said in words."""

from typing import Any

import numpy as np

from binq.files.checkpoint import Checkpoint


class NotKnownError(Exception):
    """What a file does not tell, or tells in a way that is not known; its text ends a sentence."""


class Metadata:
    """The metadata of one architecture, asked for by what follows its name.

    Raises NotKnownError, in words that end a sentence, for what is missing or strange.
    """

    def __init__(self, source: Checkpoint) -> None:
        self.source = source
        self.architecture = str(source.config.get("general.architecture"))

    def has(self, tensor: str) -> bool:
        """Returns whether the file has a tensor."""
        return tensor in self.source

    def get(self, key: str) -> Any:
        """Returns a value; of one for each layer, which are all the same, that of a layer."""
        value = self.source.config.get(f"{self.architecture}.{key}")
        if isinstance(value, list) and value:
            if any(each != value[0] for each in value):
                raise NotKnownError(f"{self.architecture}.{key} differs from layer to layer")
            return value[0]
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 <= value < 1 << 40:
            raise NotKnownError(f"{self.architecture}.{key} is {value!r}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Returns a number as it was before it became float32: the shortest that rounds to it."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not np.isfinite(value):
            raise NotKnownError(f"{self.architecture}.{key} is {value!r}")
        return float(str(np.float32(value)))
