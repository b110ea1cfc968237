"""Does benchmarks/generation/run.py time whole models? Once, on a model of two layers.

The numbers of `make bench-run` are not pytest's: models take turns in processes of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import SMOKE

RUN = Path(__file__).parent / "generation" / "run.py"


@pytest.mark.skipif(not SMOKE, reason="the numbers are those of make bench-run")
def bench_a_tiny_model(tmp_path):
    command = [sys.executable, str(RUN), "--shape", "tiny", "--rounds", "1", "--prompt", "8"]
    command += ["--new", "2", "--threads", "1", "--results", str(tmp_path), "--docs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, "--name", "A & B"], check=True, env=environment)
    (file,) = tmp_path.glob("a-b-*.json")
    rows = json.loads(file.read_text())["rows"]
    own = [row for row in rows if row["library"] == "binq"]
    assert len(own) == 6
    assert all(row["decode"] > 0 and row["prompt"] > 0 for row in own), own
    others = [row for row in rows if row["library"] != "binq"]
    assert all("decode" in row or row["failure"] == "not installed" for row in others), others
    document = (tmp_path / "benchmarks-running.md").read_text()
    assert all(f"| {row['name']} |" in document for row in others)
    again = [*command, "--name", "A & B", "--add", "--group", "int4"]
    subprocess.run(again, check=True, env=environment)
    for row in json.loads(file.read_text())["rows"]:
        if row["library"] == "binq":
            assert len(row["decode_rounds"]) == 1 + (row["format"] == "int4")
            assert row["decode_best"] >= row["decode"]
    assert (tmp_path / "images" / f"running-{file.stem}.png").stat().st_size > 1000
