"""The loops behind importance and gptq take no array that their pointers would leave."""

import numpy as np
import pytest

from binq._native import _gptq, _search


def arrays(shapes):
    return {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


SEARCH = {
    "w": ((3, 40), np.float32),
    "importance": (40, np.float32),
    "ranges": (2, np.int32),
    "scales": ((3, 2), np.float64),
    "lows": ((3, 2), np.int16),
}
FEED_BACK = {
    "x": ((3, 40), np.float32),
    "w": ((3, 40), np.float32),
    "unit": ((40, 40), np.float32),
    "scales": ((3, 2), np.float32),
    "bases": ((3, 2), np.float32),
    "group": (40, np.int32),
    "index": ((3, 40), np.uint8),
    "error": ((3, 40), np.float32),
}
DESCEND = {
    "gradient": ((3, 40), np.float32),
    "values": ((3, 40), np.float32),
    "hessian": ((40, 40), np.float32),
    "scales": ((3, 2), np.float32),
    "bases": ((3, 2), np.float32),
    "group": (40, np.int32),
    "index": ((3, 40), np.uint8),
    "changed": (3, np.intp),
}


def search(**given):
    _search.best_scales(**given, group_size=32, span=15, scale_type=0)


def feed_back(**given):
    _gptq.Levels(np.arange(-8, 8, dtype=np.float32)).feed_back(**given)


def descend(**given):
    _gptq.Levels(np.arange(-8, 8, dtype=np.float32)).descend(**given)


LOOPS = [(search, SEARCH), (feed_back, FEED_BACK), (descend, DESCEND)]
CASES = [(loop, shapes, name) for loop, shapes in LOOPS for name in shapes]


@pytest.mark.parametrize(("loop", "shapes", "name"), CASES)
def test_other_shapes_and_types_are_refused(loop, shapes, name):
    given = arrays(shapes)
    loop(**given)
    with pytest.raises(ValueError, match=f"^{name} must have . dimensions of"):
        loop(**given | {name: given[name].astype(np.complex64)})
    with pytest.raises(ValueError, match=f"^{name} must have . dimensions of"):
        loop(**given | {name: given[name][None]})
    with pytest.raises(ValueError, match=r"must have|must be pairs"):
        loop(**given | {name: given[name][1:]})
    with pytest.raises(ValueError, match="contiguous"):
        loop(
            **given | {name: given[name].repeat(2)[::2].reshape(-1)}
            if given[name].ndim == 1
            else given | {name: np.asfortranarray(given[name])}
        )


@pytest.mark.parametrize(("loop", "shapes"), LOOPS[1:])
@pytest.mark.parametrize("number", [-1, 2])
def test_columns_belong_to_a_group_that_there_is(loop, shapes, number):
    given = arrays(shapes)
    given["group"][7] = number
    with pytest.raises(ValueError, match="group must be from 0 to 1"):
        loop(**given)


@pytest.mark.parametrize("count", [0, 1, 257])
def test_there_are_2_to_256_levels(count):
    with pytest.raises(ValueError, match=f"there must be 2 to 256 levels, got {count}"):
        _gptq.Levels(np.arange(count, dtype=np.float32))


@pytest.mark.parametrize("scale_type", [-2, 5])
def test_scales_have_a_type_that_there_is(scale_type):
    given = arrays(SEARCH)
    with pytest.raises(ValueError, match=f"scale_type must be from -1 to 4, got {scale_type}"):
        _search.best_scales(**given, group_size=32, span=15, scale_type=scale_type)
