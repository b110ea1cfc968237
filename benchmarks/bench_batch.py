"""How does speed grow with the number of rows of x, and is any batch slower than its parts?"""

import pytest
from cases import FEATURES, SMOKE
from rivals import MULTIPLIERS

NAMES = [n for n in MULTIPLIERS if n not in ("onnxruntime int4 g32", "llama.cpp Q4_0")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [2, 5] if SMOKE else [1, 2, 4, 16, 32, 64, 256])
def bench_batch(time_product, name, rows):
    time_product(name, FEATURES, FEATURES, rows=rows, rotate=False, question="batch")
