"""The weight schemes of a compressed-tensors configuration, and which of them a module has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from binq.errors import FormatError, UnsupportedFormatError
from binq.storage.base import check_size
from binq.storage.patterns import matches

if TYPE_CHECKING:
    from binq.files.checkpoint import Checkpoint

_USUAL_BLOCK = (128, 128)
# Groups of the formats that have but one size.
_ONLY_GROUP = {"mxfp4-pack-quantized": 32, "nvfp4-pack-quantized": 16, "mxfp8-quantized": 32}
T = TypeVar("T")


@dataclass(frozen=True)
class WeightScheme:
    """One of the ``config_groups``: how the weights of the modules it targets are stored.

    - group: the group size, None for one scale a row or a tensor
    - block: the block size of strategy ``block``
    - reordered: whether activation order may have mixed the columns
    """

    format: str
    kind: str
    bits: int
    strategy: str
    group: int | None
    block: tuple[int, int] | None
    symmetric: bool
    reordered: bool
    targets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.format} of {self.bits}-bit {self.kind!r} weights, strategy {self.strategy!r}"

    def names(self, source: "Checkpoint", module: str) -> bool:
        """Returns whether a target is this module, by its name or by a pattern of names."""
        for target in self.targets:
            if target.startswith("re:"):
                if matches(source, "targets", target[3:], module, begin=True):
                    return True
            elif module == target or module.endswith("." + target):
                return True
        return False


def weight_schemes(source: "Checkpoint", config: Mapping[str, Any]) -> list[WeightScheme]:
    """Returns the schemes of a configuration, in its order.

    Raises UnsupportedFormatError for sparse weights, FormatError for what is malformed.
    """
    inner = config.get("quantization_config")
    if "config_groups" not in config and isinstance(inner, Mapping):
        # As transformers wrote it where weights were sparse as well.
        config = {**config, **inner}
    sparse = config.get("sparsity_config")
    dense = isinstance(sparse, Mapping) and sparse.get("format", "") == "dense"
    if sparse and not dense:
        raise UnsupportedFormatError(f"{source.path}: compressed-tensors with a sparsity_config")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        raise FormatError(f"{source.path}: compressed-tensors without config_groups")
    schemes = []
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else group
        if weights is None:
            continue
        if not isinstance(weights, Mapping) or not isinstance(group, Mapping):
            raise FormatError(f"{source.path}: config_groups holds {weights!r}")
        format = group.get("format") or config.get("format")
        schemes.append(_scheme(source, weights, str(format), group.get("targets")))
    return schemes


def _scheme(
    source: "Checkpoint", weights: Mapping[str, Any], format: str, targets: object
) -> WeightScheme:
    bits, kind = weights.get("num_bits"), weights.get("type", "int")
    if type(bits) is not int or not 1 <= bits <= 8 or kind not in ("int", "float"):
        raise UnsupportedFormatError(
            f"{source.path}: compressed-tensors format {format!r}, {bits!r}-bit {kind!r} weights"
        )
    group = weights.get("group_size")
    if group is None and format in _ONLY_GROUP:
        group = _ONLY_GROUP[format]
    # As the library: a group size is one of groups, none of rows.
    strategy = weights.get("strategy") or ("tensor" if group is None else "group")
    if strategy in ("group", "tensor_group"):
        group = check_size(source, "group_size", group)
    elif strategy in ("channel", "tensor", "block"):
        group = None
    else:
        raise UnsupportedFormatError(
            f"{source.path}: compressed-tensors strategy {strategy!r} of weights"
        )
    block = weights.get("block_structure") if strategy == "block" else None
    sizes = _USUAL_BLOCK if strategy == "block" else None
    if block is not None:
        if not isinstance(block, list) or len(block) != 2:
            raise FormatError(f"{source.path}: block_structure must be two sizes, got {block!r}")
        high, wide = (check_size(source, "block_structure", size) for size in block)
        sizes = (high, wide)
    listed = targets if isinstance(targets, list) else [targets]
    return WeightScheme(
        format,
        kind,
        bits,
        strategy,
        group,
        sizes,
        weights.get("symmetric", True) is not False,
        # With these the columns of a group lie anywhere, and a tensor says where.
        weights.get("actorder") not in (None, False, "weight", "static"),
        tuple(target for target in listed if isinstance(target, str)),
    )


def choose(
    source: "Checkpoint",
    module: str,
    described: str,
    fitting: list[tuple[WeightScheme, T]],
    schemes: list[WeightScheme],
    formats: tuple[str, ...],
) -> T:
    """Returns the one meaning that the schemes which fit a module give it.

    - fitting: the schemes that fit its tensors, each with what it makes of them
    - schemes: all of the configuration; formats: those that such tensors can have

    Where several fit and differ, the ones that name the module count. Raises FormatError where
    none fits or several do, UnsupportedFormatError where there is none of these formats.
    """
    possible = [scheme for scheme in schemes if scheme.format in formats]
    if not possible:
        raise UnsupportedFormatError(
            f"{source.path}: {described}, which is of none of the schemes of the configuration: "
            f"{'; '.join(map(str, schemes))}"
        )
    if not fitting and all((s.kind, s.strategy) == ("int", "block") for s in possible):
        raise UnsupportedFormatError(
            f"{source.path}: {described}: integers of strategy 'block': not supported"
        )
    meanings = list(dict.fromkeys(meaning for _, meaning in fitting))
    if len(meanings) > 1:
        named = [meaning for scheme, meaning in fitting if scheme.names(source, module)]
        meanings = list(dict.fromkeys(named)) or meanings
    if len(meanings) != 1:
        raise FormatError(
            f"{source.path}: {described}: {len(fitting)} of the {len(schemes)} schemes of the "
            "configuration fit"
        )
    return meanings[0]
