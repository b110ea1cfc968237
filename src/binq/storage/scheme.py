"""Storage schemes by name: a scheme reads the weights of a checkpoint, and may write them.

A scheme is a codec between stored tensors and weights. Those of the library are in the modules
beside this one; others are registered, or found by the entry points of installed packages, as the
codecs of numcodecs are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from importlib.metadata import entry_points
from typing import Any

from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.files.checkpoint import Checkpoint
from binq.storage.base import Storage

GROUP = "binq.storage"
Collect = Callable[[Checkpoint, Mapping[str, Any], Set[str]], dict[str, Storage]]


class Scheme(ABC):
    """One way to store weights, by the ``quant_method`` that configurations give it.

    A derived class sets ``name`` and defines :meth:`collect`; one that writes too defines
    :meth:`write` and :meth:`settings`, and may define :meth:`fitted`, :meth:`check` and
    :meth:`config`. What it writes, it reads without loss.

    - file_format: the ``format`` of the metadata of files that hold what it writes
    """

    name: str
    file_format: str = "pt"

    @abstractmethod
    def collect(
        self, source: Checkpoint, settings: Mapping[str, Any], names: Set[str]
    ) -> dict[str, Storage]:
        """Returns the weights of an open checkpoint that have this scheme, by name.

        - source: gives headers (``source.info(name)``) and data (``source.read`` and the like)
        - settings: the ``quantization_config`` of the checkpoint
        - names: the names of its stored tensors

        Raises FormatError for what is malformed and UnsupportedFormatError for what is not known,
        naming tensor or setting. Only headers and small tensors are to be read.
        """

    def write(self, name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
        """Returns the tensors, by name, that store packed weights without any loss.

        - name: that of the weights, such as ``"model.layers.0.mlp.up_proj.weight"``

        Raises UnsupportedFormatError for weights that the scheme cannot hold.
        """
        raise UnsupportedFormatError(f"storage scheme {self.name!r} cannot write")

    def fitted(self, weights: Mapping[str, QuantizedArray]) -> "Scheme":
        """Returns the scheme that writes a checkpoint with these weights, all that are packed.

        What is one for a whole checkpoint, such as a group size, is settled by it.
        """
        return self

    @property
    def writes(self) -> bool:
        """Returns whether the scheme writes as well as reads."""
        return type(self).write is not Scheme.write

    def check(self, name: str, weights: QuantizedArray) -> None:
        """Raises UnsupportedFormatError, with the reason, for what :meth:`write` cannot hold.

        It is asked of every weight before the first is written. This one writes and throws away;
        a scheme that can tell from packing, shape and scales does so.
        """
        self.write(name, weights)

    def settings(self, weights: Mapping[str, QuantizedArray]) -> dict[str, Any]:
        """Returns the ``quantization_config`` of a checkpoint that holds these weights, by name.

        Weights are mapped in memory when they are asked for: to look at their packing and shape
        reads nothing.
        """
        raise UnsupportedFormatError(f"storage scheme {self.name!r} cannot write")

    def config(self, weights: Mapping[str, QuantizedArray], kept: Sequence[str]) -> dict[str, Any]:
        """Returns what ``config.json`` of a checkpoint with these weights says of quantization.

        - weights: all that are packed, by name
        - kept: the names of the matrices that are not

        Raises UnsupportedFormatError for weights that the scheme holds, but not side by side.
        """
        return {"quantization_config": self.settings(weights)}

    def notes(self, weights: Mapping[str, QuantizedArray]) -> list[str]:
        """Returns what a user should know of a checkpoint with these weights, a sentence each."""
        return []


class Reader(Scheme):
    """A scheme that a function reads."""

    def __init__(self, name: str, collect: Collect) -> None:
        self.name = name
        self._collect = collect

    def collect(
        self, source: Checkpoint, settings: Mapping[str, Any], names: Set[str]
    ) -> dict[str, Storage]:
        return self._collect(source, settings, names)


_SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme, *, replace: bool = False) -> None:
    """Makes a storage scheme known under its name; returns None.

    Packages do it by an entry point of the group ``binq.storage``, whose name is the scheme's and
    whose object a :class:`Scheme` or a class of one: it is loaded when a checkpoint asks for it.

    - scheme: an instance of a class derived from :class:`Scheme`
    - replace: whether it may take the place of a scheme of the same name

    Raises TypeError for what is not a scheme, ValueError for a name that is taken.

    >>> from binq import storage
    >>> class Halves(storage.Scheme):
    ...     name = "halves"
    ...
    ...     def collect(self, source, settings, names):
    ...         return {}
    >>> storage.register(Halves())
    >>> storage.get("halves").name
    'halves'
    >>> storage.unregister("halves")
    """
    if not isinstance(scheme, Scheme):
        kind = f"class {scheme.__name__}" if isinstance(scheme, type) else type(scheme).__name__
        raise TypeError(f"scheme must be an instance of binq.storage.Scheme, got {kind}")
    name = getattr(scheme, "name", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a scheme must be a string, got {name!r}")
    if name in _SCHEMES and not replace:
        raise ValueError(f"storage scheme {name!r} is registered already: replace=True replaces it")
    _SCHEMES[name] = scheme


def unregister(name: str) -> None:
    """Forgets a storage scheme; returns None. Raises ValueError for a name that is not known."""
    if name not in _SCHEMES:
        raise ValueError(f"storage scheme {name!r} is not registered")
    del _SCHEMES[name]


def get(name: object) -> Scheme:
    """Returns the storage scheme of a name, such as ``"compressed-tensors"``.

    Raises UnsupportedFormatError for a name that is not known.

    >>> from binq import storage
    >>> storage.get("gptq").name
    'gptq'
    """
    if isinstance(name, str) and name not in _SCHEMES:
        _load_entry_point(name)
    if not isinstance(name, str) or name not in _SCHEMES:
        raise UnsupportedFormatError(f"quantization method {name!r}")
    return _SCHEMES[name]


def _load_entry_point(name: str) -> None:
    for entry in entry_points(group=GROUP, name=name):
        found = entry.load()
        scheme = found() if isinstance(found, type) else found
        if not isinstance(scheme, Scheme) or scheme.name != name:
            raise TypeError(
                f"entry point {entry.value!r} of {GROUP} must be a scheme named {name!r}, "
                f"got {scheme!r}"
            )
        register(scheme)
        return
