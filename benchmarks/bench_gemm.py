"""How fast are 8, 128 and 512 rows of x, side by side with the rivals?"""

import pytest
from cases import FEATURES, SMOKE
from rivals import MULTIPLIERS


@pytest.mark.parametrize("name", MULTIPLIERS)
@pytest.mark.parametrize("rows", [3, 17] if SMOKE else [8, 128, 512])
def bench_rows(time_product, name, rows):
    time_product(name, FEATURES, FEATURES, rows=rows, question="gemm")
