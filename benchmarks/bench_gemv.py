"""How fast is one row of x, with the weights in memory and with the weights in cache?"""

import pytest
from cases import FEATURES
from rivals import MULTIPLIERS


@pytest.mark.parametrize("name", MULTIPLIERS)
@pytest.mark.parametrize("where", ["memory", "cache"])
def bench_one_row(time_product, name, where):
    time_product(
        name, FEATURES, FEATURES, rows=1, rotate=where == "memory", question="gemv", where=where
    )
