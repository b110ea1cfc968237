"""Writes packed weights as compressed-tensors, format pack-quantized, without loss.

Binary and ternary weights become 2-bit integers −1, 0, 1, which vLLM and transformers run too; int4
stays what it is, its zero points packed along the rows.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binq.array.array import QuantizedArray
from binq.errors import UnsupportedFormatError
from binq.formats.zeros import CODE, NONE, unpack_zeros
from binq.storage.bits import pack
from binq.storage.coded_rows import BITS, HEAD, SUFFIX, check_zeros, is_embedding
from binq.storage.groups import smaller_group, spread
from binq.storage.nibbles import MXFP4, MXFP4_GROUP, mxfp4_scales, stored_nibbles

_TEXT = "language_model."
_INTEGERS, _FLOATS = "pack-quantized", "mxfp4-pack-quantized"


def write(name: str, weights: QuantizedArray) -> dict[str, NDArray[Any]]:
    """Returns ``X.weight_packed``, its scales and shape, and its zero points where it has them.

    Raises UnsupportedFormatError for offsets, for levels that are no integers, and for a ragged
    last group, none of which the format has; ValueError for a name that does not end in
    ``.weight``.
    """
    if not name.endswith(SUFFIX):
        raise ValueError(f"the name of a weight must end in {SUFFIX!r}, got {name!r}")
    bits = _check(name, weights)
    data = weights._data
    if weights.format == MXFP4:
        nibbles = stored_nibbles(weights)
        pairs = nibbles[..., ::2] | nibbles[..., 1::2] << np.uint8(4)
        return {f"{name}_packed": pairs, f"{name}_scale": mxfp4_scales(name, weights)}
    half = 1 << (bits - 1)
    zeros = None
    codes = weights.codes()
    if data.packing.zero == CODE:
        # Unsigned codes already.
        assert data.zeros is not None
        zeros = unpack_zeros(CODE, data.zeros, data.geometry)
        check_zeros(zeros, bits)
    else:
        codes = codes.astype(np.int16) + np.int16(half)
    # The library multiplies in the type of the scales, where float16 would round the products.
    scales = _spread(weights, weights.group_scales())
    parts: dict[str, NDArray[Any]] = {
        f"{name}_packed": pack(codes.astype(np.uint8), bits).view(np.int32),
        f"{name}_scale": np.ascontiguousarray(scales, np.float32),
        f"{name}_shape": np.array(weights.shape, np.int64),
    }
    if zeros is not None:
        zeros = _spread(weights, zeros)
        across = pack(np.ascontiguousarray(zeros.swapaxes(-1, -2)), bits)
        packed = np.ascontiguousarray(across.swapaxes(-1, -2))
        parts[f"{name}_zero_point"] = packed.view(np.int32)
    return parts


def check(name: str, weights: QuantizedArray) -> None:
    """Raises UnsupportedFormatError for weights that the format cannot hold."""
    if not name.endswith(SUFFIX):
        raise UnsupportedFormatError(f"{name}: only weights of layers, whose names end in .weight")
    if len(weights.shape) > 2:
        raise UnsupportedFormatError(f"{name}: a stack of matrices, where a layer has one")
    _check(name, weights)


def settings(weights: Mapping[str, QuantizedArray], kept: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the ``quantization_config`` of a checkpoint with these weights.

    One group of settings for each packing, which targets all linear layers where there are no
    others, and else the modules by patterns or names. Embeddings are always named.

    - kept: the names of weights that are not packed, which are not to be taken for such layers
    """
    modules: dict[tuple[str, int, int | None, bool], list[str]] = {}
    for name, q in weights.items():
        form = _FLOATS if q.format == MXFP4 else _INTEGERS
        kind = (form, _check(name, q), _group(q), q._data.packing.zero == NONE)
        modules.setdefault(kind, []).append(name.removesuffix(SUFFIX))
    heads = [] if HEAD + SUFFIX in weights else [HEAD + SUFFIX]  # a tied one has no tensor
    ignored = {name.removesuffix(SUFFIX) for name in (*kept, *heads) if name.endswith(SUFFIX)}
    packed = {name for names in modules.values() for name in names}
    groups: dict[str, Any] = {}
    for number, ((form, bits, size, symmetric), names) in enumerate(modules.items()):
        groups[f"group_{number}"] = {
            "format": form,
            "targets": _targets(names, {*ignored, *packed} - set(names)),
            "input_activations": None,
            "output_activations": None,
            "weights": {
                "num_bits": bits,
                "type": "float" if form == _FLOATS else "int",
                "symmetric": symmetric,
                "strategy": "channel" if size is None else "group",
                "group_size": size,
                "dynamic": False,
            },
        }
        if form == _FLOATS:
            groups[f"group_{number}"]["weights"] |= {"scale_dtype": "torch.uint8"}
    forms = {kind[0] for kind in modules}
    return {
        "quant_method": "compressed-tensors",
        "format": forms.pop() if len(forms) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _spellings(ignored),
    }


def notes(weights: Mapping[str, QuantizedArray]) -> list[str]:
    """Returns what transformers does not load as it loads all else, a sentence each."""
    modules = (name.removesuffix(SUFFIX) for name in weights)
    embeddings = [name for name in modules if is_embedding(name)]
    if not embeddings:
        return []
    return [
        f"{embeddings[0]} is packed: transformers (5.24) loads packed embeddings with "
        "CompressedTensorsConfig(dequantize=True) alone"
    ]


def _targets(modules: Sequence[str], others: Iterable[str]) -> list[str]:
    """Returns what names these modules and none of the others: all linear layers, or patterns.

    "Linear" names layers that are not packed too, and those are ignored by their names in the file,
    for which transformers may have others: where there are any, the packed ones are named.
    """
    embeddings = {name for name in modules if is_embedding(name)}
    others = {name for name in others if not is_embedding(name)}
    if others <= {HEAD}:
        return ["Linear", *_spellings(embeddings)]
    patterns = {name: _pattern(name) for name in modules}
    # Of a hundred thousand experts there are a few patterns.
    usable = {
        pattern
        for pattern in set(patterns.values())
        if pattern and not any(re.match(pattern, other) for other in others)
    }
    named = [name for name, pattern in patterns.items() if pattern not in usable]
    found = {*_spellings(named), *(f"re:{pattern}" for pattern in usable)}
    return sorted(found)


@cache
def _pattern(module: str) -> str | None:
    """Returns what matches a module of any layer, whatever stands before "layers"."""
    _, layers, rest = module.partition("layers.")
    if not layers:
        return None
    return ".*" + re.sub("[0-9]+", "[0-9]+", re.escape(layers + rest)) + "$"


def _spellings(modules: Iterable[str]) -> list[str]:
    """Returns the names of modules, and those that a model of the text alone has for them.

    transformers renames the tensors of a model that sees when it loads its text model alone
    (AutoModelForCausalLM), but not what the settings name.
    """
    return sorted({name for module in modules for name in (module, module.replace(_TEXT, "", 1))})


def _check(name: str, weights: QuantizedArray) -> int:
    """Returns the bits of the codes. Raises UnsupportedFormatError for what they cannot hold."""
    packing = weights._data.packing
    what = ""
    if packing.rotation is not None:
        what = "weights in a rotated basis"
    elif packing.format == MXFP4:
        mxfp4_scales(name, weights)
        return 4
    elif packing.format not in BITS:
        what = f"weights of format {packing.format!r}"
    elif packing.zero not in (NONE, CODE):
        what = "an offset a group"
    elif _is_ragged(weights) and _group(weights) is None:
        what = f"{weights.shape[-1]} inputs in groups of {packing.group_size}, the last ragged"
    if what:
        raise UnsupportedFormatError(f"{name}: compressed-tensors cannot hold {what}")
    return BITS[packing.format]


def _is_ragged(weights: QuantizedArray) -> bool:
    size, columns = weights.group_size, weights.shape[-1]
    return size is not None and columns > size and columns % size != 0


def _group(weights: QuantizedArray) -> int | None:
    """Returns the group size that is written: several smaller groups where the last is ragged."""
    size, columns = weights.group_size, weights.shape[-1]
    if weights.format == MXFP4:
        return MXFP4_GROUP
    if _is_ragged(weights):
        return smaller_group(size, columns, (32, 64, 128))
    # A group of the row's own size is one like those of longer rows.
    return None if size is None or size > columns else size


def _spread(weights: QuantizedArray, values: NDArray[Any]) -> NDArray[Any]:
    """Returns scales or zero points of the groups that are written."""
    if not _is_ragged(weights):
        return values
    size = _group(weights)
    assert size is not None
    return spread(values, weights.group_size, weights.shape[-1], size)
