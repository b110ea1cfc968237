"""The benchmarks of conversions run, in their small form, and say what they measured."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def lines(script: str, *arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *map(str, arguments)],
        env=os.environ | {"BINQ_BENCH_SMOKE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_sparse_model_is_planned_converted_and_deleted(tmp_path):
    first, made, converted, memory = lines("sparse_deepseek.py", "--folder", tmp_path)
    assert "kernels" in first
    assert "in 8 files" in made
    assert re.search(r"planned \d+ in .* GB/s", converted)
    assert memory.startswith("at most")
    assert not list(tmp_path.iterdir())


def test_the_full_size_is_that_of_the_published_model():
    code = (
        "import sparse_deepseek as s; t = list(s.tensors(61, 256)); "
        "print(len(t), sum(map(s.nbytes, t)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    environment.pop("BINQ_BENCH_SMOKE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["90427", "673150611808"]


def test_every_source_has_a_row_for_each_target(tmp_path):
    found = lines("conversions.py", "--folder", tmp_path, "--matrices", 1, "--rounds", 1)
    for source in ("bfloat16", "float8", "GPTQ int4", "input-major experts", "MXFP4"):
        assert sum(line.startswith(f"| {source}") for line in found) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_gathering_has_a_row_for_each_format(threads):
    found = lines("gathering.py", "--threads", threads, "--formats", "int4", "binary")
    rows = [line for line in found if line.startswith(("int4,", "binary,"))]
    assert len(rows) == 2
    assert all(" us " in row for row in rows)
