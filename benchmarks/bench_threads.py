"""What does a second thread bring, and how near is one row to the memory's own speed?"""

import pytest
from bandwidth import read_bandwidth
from cases import FEATURES, SMOKE
from rivals import MULTIPLIERS


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 5] if SMOKE else [1, 128])
@pytest.mark.parametrize("name", [n for n in MULTIPLIERS if not n.startswith("numpy")])
def bench_threads(time_product, name, rows, threads):
    time_product(
        name,
        FEATURES,
        FEATURES,
        rows=rows,
        threads=threads,
        question="threads",
        bandwidth=list(read_bandwidth(threads).values()) if rows == 1 else None,
    )
