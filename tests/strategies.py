"""Hypothesis strategies shared by the tests: shapes, formats, weights and activations to fear.

Arrays are drawn as a seed, a distribution and a memory layout, not number by number: that keeps
large shapes quick, and a failing example still shrinks to a small shape and a plain layout.
"""

from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import binq
from binq.array.packing import Packing
from binq.formats import FORMATS, get_format
from binq.formats.zeros import CODE, OFFSET

GROUP_SIZES = (32, 64, 128, 256, None)
EDGE_SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
FLOAT_DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
LAYOUTS = ("c", "fortran", "strided", "reversed", "offset", "unaligned", "big_endian")


def sizes(low: int = 0, high: int = 300) -> st.SearchStrategy[int]:
    """Sizes of an axis, often at the edges of tiles and groups."""
    edges = [size for size in EDGE_SIZES if low <= size <= high]
    return st.one_of(st.sampled_from(edges), st.integers(low, high))


def shapes(low: int = 0, high: int = 300, lead: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of weights: (out_features, in_features) behind up to ``lead`` small leading axes."""
    leading = st.lists(st.integers(max(low, 0), 3), max_size=lead).map(tuple)
    return st.tuples(leading, sizes(low, high), sizes(low, high)).map(
        lambda parts: (*parts[0], parts[1], parts[2])
    )


def formats() -> st.SearchStrategy[str]:
    return st.sampled_from(sorted(FORMATS))


def group_sizes() -> st.SearchStrategy[int | None]:
    return st.sampled_from(GROUP_SIZES)


@st.composite
def kinds(draw: st.DrawFn) -> tuple[str, bool | str]:
    """A format and its kind of zero: True for none, False for the default, or the other's name."""
    name = draw(formats())
    _, *others = get_format(name).zero_kinds or (None,)
    zeros = (True, False, *others) if get_format(name).zero_kinds else (True,)
    return name, draw(st.sampled_from(zeros))


def packing_of(format: str, symmetric: bool | str = True, group_size: int | None = 128) -> Packing:
    """Returns how weights of a kind are packed."""
    if isinstance(symmetric, str):
        return Packing.checked(format, group_size, False, symmetric)
    return Packing.checked(format, group_size, symmetric)


def codes_of(format: str, symmetric: bool | str) -> tuple[int, ...]:
    """Returns the codes of a kind of weights."""
    packing = packing_of(format, symmetric)
    return packing.kind.codes(packing.zero)


def layouts() -> st.SearchStrategy[str]:
    return st.sampled_from(LAYOUTS)


def relay(array: NDArray[Any], layout: str) -> NDArray[Any]:
    """Returns a read-only array of the same values in another memory layout."""
    shape = array.shape
    if layout == "fortran":
        result = np.asfortranarray(array)
    elif layout == "strided":
        result = np.zeros((*shape[:-1], 2 * shape[-1] + 1), array.dtype)[..., 1::2]
        result[...] = array
    elif layout == "reversed":
        result = np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    elif layout == "offset":
        result = np.zeros((*shape[:-1], shape[-1] + 3), array.dtype)[..., 2:-1]
        result[...] = array
    elif layout == "unaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
        result = memory.view(array.dtype).reshape(shape)
        result[...] = array
    elif layout == "big_endian" and array.dtype.kind == "f":
        # ml_dtypes' types have one byte order only.
        result = array.astype(array.dtype.newbyteorder(">"))
    else:
        result = array.copy()
    result.flags.writeable = False
    return result


DISTRIBUTIONS = (
    "normal",
    "zero",
    "constant",
    "sparse",
    "outlier",
    "two_levels",
    "ties",
    "one_sided",
    "tiny",
    "wide",
    "ramp",
)


def sample(rng: np.random.Generator, distribution: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Returns finite float32 values of one of DISTRIBUTIONS, all within float16's range."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if distribution == "zero":
        values = values * 0
    elif distribution == "constant":
        values = np.full(shape, np.float32(-0.37))
    elif distribution == "sparse":
        values = np.where(rng.random(shape) < 0.9, np.float32(0), values)
    elif distribution == "outlier":
        values = np.where(rng.random(shape) < 0.01, values * 1000, values)
    elif distribution == "two_levels":
        values = np.where(values > 0.3, np.float32(1.5), np.float32(-0.25))
    elif distribution == "ties":
        values = np.rint(values * 4) / 8
    elif distribution == "one_sided":
        values = np.abs(values) + 3
    elif distribution == "tiny":
        values = values * np.float32(2.0**-12)
    elif distribution == "wide":
        values = values * np.exp2(rng.integers(-10, 10, shape)).astype(np.float32)
    elif distribution == "ramp":
        values = np.linspace(-1, 1, values.size, dtype=np.float32).reshape(shape)
    return values.astype(np.float32)


@st.composite
def weights(
    draw: st.DrawFn,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
    dtypes: tuple[Any, ...] = FLOAT_DTYPES,
) -> NDArray[Any]:
    """Finite weights: any distribution, float dtype and memory layout; read-only."""
    if shape is None:
        shape = shapes()
    if not isinstance(shape, tuple):
        shape = draw(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = sample(rng, draw(st.sampled_from(DISTRIBUTIONS)), shape)
    return relay(values.astype(draw(st.sampled_from(dtypes))), draw(layouts()))


@st.composite
def activations(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtypes: tuple[Any, ...] = (np.float32,),
) -> NDArray[Any]:
    """Finite inputs of a product: any distribution and memory layout; read-only."""
    return draw(weights(shape, dtypes))


def zeros_of(q: binq.QuantizedArray) -> dict[str, Any]:
    """Returns zero points or offsets of groups as the argument of from_codes that takes them."""
    name = q._data.packing.part_names()[-1]
    return {} if q.symmetric else {name: q.group_zero_points()}


def random_quantized(
    rng: np.random.Generator,
    format: str,
    shape: tuple[int, ...],
    group_size: int | None = 128,
    symmetric: bool | str = True,
    scale_dtype: Any = np.float16,
) -> binq.QuantizedArray:
    """Returns weights of random codes, scales and zero points: every code occurs."""
    packing = packing_of(format, symmetric, group_size)
    logical = (*shape[:-1], packing.geometry(shape).scale_groups)
    levels = np.array(codes_of(format, symmetric))
    # Scales that float16 holds, times 1 + 2**-20 where float32 scales are wanted.
    scales = rng.uniform(0.001, 2, logical).astype(np.float16).astype(np.float32)
    zeros = {}
    if scale_dtype == np.float32:
        scales *= np.float32(1 + 2**-20)
    if packing.zero == CODE:
        zeros["zero_points"] = rng.integers(0, len(levels), logical)
    elif packing.zero == OFFSET:
        zeros["offsets"] = rng.uniform(-1, 1, logical).astype(np.float16)
    return binq.QuantizedArray.from_codes(
        rng.choice(levels, shape),
        scales,
        format=format,
        group_size=group_size,
        **zeros,
    )


@st.composite
def quantized_arrays(
    draw: st.DrawFn,
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
) -> binq.QuantizedArray:
    """Packed weights of any format, group size and scale dtype, with random codes."""
    name, symmetric = draw(kinds())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_quantized(
        rng,
        name,
        draw(shapes(lead=2) if shape is None else shape),
        draw(group_sizes()),
        symmetric,
        draw(st.sampled_from((np.float16, np.float32))),
    )
