"""Calibrator: mean and covariance of what enters each layer, collected row by row."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binq.array.checks import as_float32, check_path
from binq.errors import FormatError, NonFiniteError, UnsupportedFormatError
from binq.files import save_file
from binq.files.safetensors import SafetensorsFile
from binq.methods.moments import Moments

_KEY = "binq_calibration"
_VERSION = 1
# Rows that wait, so that a product of matrices takes them in at once.
_WAITING = 1024
# Rows of a covariance that are worked on at a time where it is larger than this.
_PANEL = 4096


class Calibrator:
    """Collects mean and covariance of the inputs of layers, in memory that rows do not add to.

    ``cal.update(name, x)`` takes in the rows of x, ``cal[name]`` is what is known by then, the
    ``stats`` of :func:`binq.quantize`. For each name it holds a float32 matrix
    ``(in_features, in_features)``, a mean, a count and at most 1024 rows that wait. Sums are in
    float64, merged by the rule of Chan, Golub and LeVeque (1979), so that neither a large mean nor
    many small updates cost digits.

    >>> import numpy as np, binq
    >>> cal = binq.Calibrator()
    >>> cal.update("up_proj", [[1.0, 2.0], [3.0, 6.0]])
    >>> cal["up_proj"].mean, cal["up_proj"].count
    (array([2., 4.], dtype=float32), 2)
    >>> cal["up_proj"].covariance
    array([[1., 2.],
           [2., 4.]], dtype=float32)
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._sensitivities: dict[str, float] = {}

    def update(self, name: str | Sequence[str], x: ArrayLike) -> None:
        """Takes in the rows of x, which enter the layer of that name; returns None.

        - name: of the weight, as the checkpoint has it; or several, of layers with the same input,
          whose moments are then stored once
        - x: ``(..., in_features)``, real numbers, read as float32

        Raises NonFiniteError for inf and NaN, ValueError for no inputs or other ones than before.
        """
        names = _check_names(name)
        rows = as_float32("x", x)
        if rows.ndim < 1:
            raise ValueError("x must be (..., in_features), got a number")
        if not rows.shape[-1]:
            raise ValueError(f"x of {names[0]!r} must have at least one column, got {rows.shape}")
        rows = rows.reshape(-1, rows.shape[-1])
        if not np.isfinite(rows).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(rows))[0])
            raise NonFiniteError(
                f"x of {names[0]!r} is not finite: {rows[row, column]} at ({row}, {column})"
            )
        for known in (self._sums[other] for other in names if other in self._sums):
            if known.columns != rows.shape[1]:
                raise ValueError(
                    f"x of {names[0]!r} must have {known.columns} columns as before, "
                    f"got {rows.shape[1]}"
                )
        for sums in self._of(names, rows.shape[1]):
            sums.add(rows)

    @property
    def sensitivities(self) -> Mapping[str, float]:
        """Returns what is known of how much the model minds errors of a layer, by its name.

        A sensitivity is what the model loses when that layer alone becomes int3 in groups of 64,
        such as the divergence of its predictions. Only their ratios count: ``target_bpw`` and
        ``target_bytes`` spend bits by them.
        """
        return MappingProxyType(self._sensitivities)

    def set_sensitivity(self, name: str | Sequence[str], value: float) -> None:
        """Says how much the model minds errors of a layer, or of several; returns None.

        - name: of a layer whose inputs were seen
        - value: what the model loses, as ``sensitivities`` defines it; 0 or more

        Raises KeyError for a name never seen, ValueError for a number below 0 or not finite.
        """
        names = _check_names(name)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"value must be a number, got {value!r}")
        if not 0 <= value < math.inf:
            raise ValueError(f"value must be a finite number of 0 or more, got {value!r}")
        for each in names:
            self._check_seen(each)
        self._sensitivities.update(dict.fromkeys(names, float(value)))

    def merge(self, other: "Calibrator") -> None:
        """Takes in all that another calibrator knows, as if its rows had been seen here.

        Sensitivities that both know become their mean.

        Raises ValueError, before anything is changed, for a name with another number of inputs.
        """
        if not isinstance(other, Calibrator):
            raise TypeError(f"other must be a Calibrator, got {type(other).__name__}")
        for name, theirs in other._sums.items():
            ours = self._sums.get(name)
            if ours is not None and ours.columns != theirs.columns:
                raise ValueError(
                    f"{name!r} must have {ours.columns} columns in both, got {theirs.columns}"
                )
        for names, sums in other._groups():
            for mine in self._of(names, sums.columns):
                mine.merge(sums.moments(names[0]))
        for name, value in other._sensitivities.items():
            self._sensitivities[name] = (self._sensitivities.get(name, value) + value) / 2

    def __getitem__(self, name: str) -> Moments:
        """Returns the moments of the inputs of a layer. Raises KeyError for a name never seen."""
        self._check_seen(name)
        return self._sums[name].moments(name)

    def _check_seen(self, name: str) -> None:
        if name not in self._sums:
            raise KeyError(f"no rows were seen of {name!r}; there are rows of {_some(self._sums)}")

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def __repr__(self) -> str:
        return f"Calibrator({len(self)} names, {sum(s.count for s in self._sums.values())} rows)"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all moments to a safetensors file; returns None.

        NAME.covariance and NAME.mean are float32, NAME.count int64, as :class:`Moments` has them;
        sensitivities stand in the metadata.
        """
        tensors: dict[str, NDArray[Any]] = {}
        shared = {}
        for (first, *others), sums in self._groups():
            moments = sums.moments(first)
            tensors[f"{first}.covariance"] = moments.covariance
            tensors[f"{first}.mean"] = moments.mean
            tensors[f"{first}.count"] = np.array(moments.count, np.int64)
            if others:
                shared[first] = others
        described: dict[str, Any] = {"version": _VERSION, "shared": shared}
        if self._sensitivities:
            described["sensitivities"] = self._sensitivities
        save_file(tensors, path, {_KEY: json.dumps(described)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Returns the calibrator that was saved at ``path``; its matrices are mapped, not read.

        Raises FormatError for a file that is malformed or was not written by :meth:`save`.
        """
        path = check_path("path", path)
        with SafetensorsFile(path) as file:
            arrays, text = file.map_all(), file.metadata.get(_KEY)
        if text is None:
            raise FormatError(f"{path}: not written by Calibrator.save: no {_KEY!r} in metadata")
        try:
            described = json.loads(text)
            version = described["version"]
            shared = {str(k): [str(name) for name in v] for k, v in described["shared"].items()}
            sensitivities = dict(described.get("sensitivities", {}))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise FormatError(f"{path}: {_KEY!r} in metadata is malformed") from None
        if version != _VERSION:
            raise UnsupportedFormatError(f"{path}: calibration of version {version!r}")
        result = cls()
        for name in sorted(key.removesuffix(".mean") for key in arrays if key.endswith(".mean")):
            sums = _Sums.of(_stored(name, arrays, path))
            for each in (name, *shared.pop(name, ())):
                if each in result._sums:
                    raise FormatError(f"{path}: the name {each!r} appears twice")
                result._sums[each] = sums
        if shared or len(arrays) != 3 * len({id(s) for s in result._sums.values()}):
            raise FormatError(f"{path}: it has other tensors than covariance, mean and count")
        for name, value in sensitivities.items():
            try:
                result.set_sensitivity(name, value)
            except (KeyError, TypeError, ValueError, OverflowError):
                raise FormatError(f"{path}: the sensitivity of {name!r} is {value!r}") from None
        return result

    def _of(self, names: tuple[str, ...], columns: int) -> list["_Sums"]:
        """Returns the sums that rows of these names go to: one where it is theirs alone."""
        found = {id(self._sums[name]) for name in names if name in self._sums}
        if not found:
            self._sums.update(dict.fromkeys(names, _Sums(columns)))
            return [self._sums[names[0]]]
        users = [name for name, sums in self._sums.items() if id(sums) in found]
        if len(found) == 1 and set(users) == set(names):
            return [self._sums[names[0]]]
        # They parted ways: from here on each has its own.
        for name in names:
            known = self._sums.get(name)
            self._sums[name] = _Sums(columns) if known is None else known.copy()
        return [self._sums[name] for name in names]

    def _groups(self) -> Iterator[tuple[tuple[str, ...], "_Sums"]]:
        """Yields sums and the names that share them."""
        names: dict[int, list[str]] = {}
        for name, sums in self._sums.items():
            names.setdefault(id(sums), []).append(name)
        for group in names.values():
            yield tuple(group), self._sums[group[0]]


class _Sums:
    """Moments of the rows seen, and rows that wait."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._count = 0
        self._mean = np.zeros(columns)
        self._covariance: NDArray[np.float32] | None = None
        self._waiting: list[NDArray[np.float32]] = []
        self._known: Moments | None = None

    @classmethod
    def of(cls, moments: Moments) -> Self:
        sums = cls(moments.in_features)
        sums._count, sums._covariance = moments.count, moments.covariance
        sums._mean, sums._known = moments.mean.astype(np.float64), moments
        return sums

    @property
    def count(self) -> int:
        return self._count + sum(map(len, self._waiting))

    def copy(self) -> "_Sums":
        copied = _Sums(self.columns)
        copied._count, copied._mean = self._count, self._mean
        copied._covariance, copied._waiting = self._covariance, list(self._waiting)
        return copied

    def add(self, rows: NDArray[np.float32]) -> None:
        self._known = None
        for start in range(0, len(rows), _WAITING):
            self._waiting.append(rows[start : start + _WAITING].copy())
            if sum(map(len, self._waiting)) >= _WAITING:
                self._take_in()

    def moments(self, name: str) -> Moments:
        self._take_in()
        if self._known is None:
            covariance = self._covariance
            if covariance is None:
                covariance = np.zeros((self.columns, self.columns), np.float32)
            if not (np.isfinite(covariance).all() and np.isfinite(self._mean).all()):
                raise ValueError(f"x of {name!r} is so large that float32 cannot hold its square")
            self._known = Moments(covariance, self._mean.astype(np.float32), self._count)
        return self._known

    def merge(self, other: Moments) -> None:
        self._known = None
        if other.count:
            self._take_in()
            self._join(other.count, other.mean.astype(np.float64), other.covariance)

    def _take_in(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._waiting).astype(np.float64)
            self._waiting.clear()
            mean = rows.mean(axis=0)
            rows -= mean
            self._join(len(rows), mean, None, rows)

    def _join(
        self,
        count: int,
        mean: NDArray[np.float64],
        covariance: NDArray[np.float32] | None,
        rows: NDArray[np.float64] | None = None,
    ) -> None:
        """Joins other rows of that count and mean: their covariance, or they less their mean."""
        total = self._count + count
        old, new = self._count / total, count / total
        apart = mean - self._mean
        result = np.empty((self.columns, self.columns), np.float32)
        for start in range(0, self.columns, _PANEL):
            panel = slice(start, start + _PANEL)
            if rows is not None:
                part = rows[:, panel].T @ rows
                part /= total
            else:
                assert covariance is not None
                part = new * covariance[panel].astype(np.float64)
            if self._covariance is not None:
                part += old * self._covariance[panel].astype(np.float64)
                part += np.multiply.outer(old * new * apart[panel], apart)
            with np.errstate(over="ignore"):
                result[panel] = part
        self._mean = self._mean + new * apart
        self._covariance, self._count = result, total


def _check_names(name: Any) -> tuple[str, ...]:
    names = (name,) if isinstance(name, str) else tuple(name) if isinstance(name, Sequence) else ()
    if not names or not all(isinstance(each, str) and each for each in names):
        raise TypeError(f"name must be a str, or several, got {name!r}")
    return tuple(dict.fromkeys(names))


def _some(names: Sequence[str] | dict[str, Any]) -> str:
    if not names:
        return "no name at all"
    shown = ", ".join(map(repr, list(names)[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _stored(name: str, arrays: dict[str, NDArray[Any]], path: Any) -> Moments:
    """Returns the moments of a file. Raises FormatError for parts that do not fit together."""
    covariance, mean, count = (
        arrays.get(f"{name}.{part}") for part in ("covariance", "mean", "count")
    )
    if covariance is None or mean is None or count is None:
        raise FormatError(f"{path}: {name!r} must have covariance, mean and count")
    columns = len(mean) if mean.ndim == 1 else -1
    fits = mean.dtype == covariance.dtype == np.float32 and count.dtype == np.int64
    if not fits or covariance.shape != (columns, columns) or count.shape:
        raise FormatError(
            f"{path}: {name!r}: covariance {covariance.dtype} {covariance.shape}, mean "
            f"{mean.dtype} {mean.shape} and count {count.dtype} {count.shape} do not fit together"
        )
    if count < 0:
        raise FormatError(f"{path}: {name!r}: the count {count} is below 0")
    squares = covariance.diagonal()
    if not (np.isfinite(mean).all() and np.isfinite(squares).all() and (squares >= 0).all()):
        raise FormatError(f"{path}: {name!r}: means must be finite, mean squares also positive")
    return Moments(covariance, mean, int(count))
