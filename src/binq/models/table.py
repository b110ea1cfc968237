"""The table of families: those of this package, those that programs register, and plugins'.

A plugin is an entry point of the group ``binq.models`` that names a :class:`Family`; they are
loaded for a model that the table does not have.
"""

import re
import warnings
from importlib.metadata import entry_points

from binq.models import (
    bitnet,
    decoder,
    deepseek,
    dense,
    encoder,
    encoder_decoder,
    gemma4,
    generic,
    gguf,
    gpt2,
    gpt_oss,
    llama4,
    multimodal,
    qwen35,
    speech,
    vision,
)
from binq.models.family import Family, Rule

GROUP = "binq.models"

# model_type -> family.
FAMILIES: dict[str, Family] = {}
_NAMED: dict[str, Family] = {}
_plugins_read = False


def register(family: Family) -> None:
    """Adds a family of models to those that conversions know; returns None.

    - family: a :class:`binq.models.Family`. Its ``model_types`` are then read by its rules, and
      ``family=`` and ``--family`` take its name

    Raises TypeError for what is not a Family and for fields of a wrong type, ValueError for a
    pattern that is not a regular expression, and for a name or a ``model_type`` that another family
    has. Registering an equal family again is allowed.

    >>> from binq.models import Family, Rule, register
    >>> register(Family(
    ...     name="my model",
    ...     model_types=("my_model",),
    ...     rules=(
    ...         Rule(r"norm\\.weight$", "norm", "norms are small"),
    ...         Rule(r"\\.mix\\.weight$", "linear"),
    ...     ),
    ... ))
    """
    _check(family)
    key = family.name.casefold()
    if _NAMED.get(key, family) != family:
        raise ValueError(f"family {family.name!r} is registered already")
    for kind in family.model_types:
        other = FAMILIES.get(kind, family)
        if other != family:
            raise ValueError(f"model_type {kind!r} belongs to the family {other.name!r}")
    _NAMED[key] = family
    FAMILIES.update(dict.fromkeys(family.model_types, family))


def _check(family: object) -> None:
    """Raises TypeError or ValueError, naming the field, for a family that could not serve."""
    if not isinstance(family, Family):
        kind = f"class {family.__name__}" if isinstance(family, type) else type(family).__name__
        raise TypeError(f"family must be an instance of binq.models.Family, got {kind}")
    if not isinstance(family.name, str):
        raise TypeError(f"the name of a family must be a string, got {family.name!r}")
    if not family.name:
        raise ValueError("family must have a name, got ''")
    types = family.model_types
    if not isinstance(types, tuple) or not all(isinstance(kind, str) for kind in types):
        raise TypeError(f"model_types must be a tuple of strings, got {types!r}")
    patterns = [] if family.input_major is None else [("input_major", family.input_major)]
    if not callable(family.rules):
        if not isinstance(family.rules, tuple):
            raise TypeError(f"rules must be a tuple of Rule, got {family.rules!r}")
        for rule in family.rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"rules must be a tuple of Rule, got {rule!r}")
            patterns.append(("pattern", rule.pattern))
    for field, pattern in patterns:
        try:
            re.compile(pattern)
        except (TypeError, re.error) as error:
            raise ValueError(
                f"{field} must be a regular expression, got {pattern!r}: {error}"
            ) from None


def by_model_type(kind: object) -> Family | None:
    """Returns the family of a ``model_type``, None where there is none."""
    if not isinstance(kind, str):
        return None
    if kind not in FAMILIES:
        _read_plugins()
    return FAMILIES.get(kind)


def by_name(name: object) -> Family:
    """Returns the family that a user names: by its name, or by one of its model types.

    Raises TypeError for what is not text, ValueError that lists the names.
    """
    if not isinstance(name, str):
        raise TypeError(f"family must be a name, got {name!r}")
    for again in (False, True):
        found = _NAMED.get(name.casefold()) or FAMILIES.get(name)
        if found is not None:
            return found
        if not again:
            _read_plugins()
    known = ", ".join(repr(family.name) for family in _NAMED.values())
    raise ValueError(f"family must be one of {known}, or a model_type of theirs, got {name!r}")


def _read_plugins() -> None:
    """Registers the families of installed packages, once; one that cannot be had is a warning."""
    global _plugins_read
    if _plugins_read:
        return
    _plugins_read = True
    for point in entry_points(group=GROUP):
        try:
            register(point.load())
        except Exception as error:  # another package's code
            warnings.warn(f"entry point {point.value!r} of {GROUP}: {error}", stacklevel=2)


_NAMED[gguf.FAMILY.name.casefold()] = gguf.FAMILY  # its types are those of GGUF files
for _module in (
    dense,
    qwen35,
    gpt_oss,
    gemma4,
    llama4,
    deepseek,
    bitnet,
    multimodal,
    decoder,
    encoder,
    encoder_decoder,
    gpt2,
    vision,
    speech,
    generic,
):
    register(_module.FAMILY)
