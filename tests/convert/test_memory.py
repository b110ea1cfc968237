"""Memory of a conversion: within its bound, however large the checkpoint is."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from checkpoints.folders import write_json

import binq


def sparse_checkpoint(folder: Path, gib: int) -> None:
    """Matrices of 1 GiB in BF16 that take no room on the disk: a row of weights each, then zeros.

    The row is not of few levels: else binq would take all for packed already.
    """
    folder.mkdir()
    entries = {
        f"model.layers.{i}.mlp.up_proj.weight": {
            "dtype": "BF16",
            "shape": [2**15, 2**14],
            "data_offsets": [i * 2**30, (i + 1) * 2**30],
        }
        for i in range(gib)
    }
    header = json.dumps(entries).encode()
    start = 8 + len(header)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for i in range(gib):
            file.seek(start + i * 2**30)
            file.write(np.linspace(-1, 1, 2**14).astype(ml_dtypes.bfloat16).tobytes())
        file.truncate(start + gib * 2**30)
    write_json(folder / "config.json", {"model_type": "qwen3"})


MEMORY = """
    import resource, sys, threading, time
    import binq
    from pathlib import Path
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    most, stop = 0, False
    def watch():
        global most
        while not stop:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    most = max(most, int(line.split()[1]) * 1024)
            time.sleep(0.005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = binq.quantize_checkpoint(
            sys.argv[1], sys.argv[2], "binary", rules=["*=binary:absmean"])
    finally:
        stop = True
        watcher.join()
    print(most, report.peak_bytes)
"""


def run_bounded(folder, target, gib_limit):
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    arguments = [str(folder), str(target), str(int(gib_limit * 2**30))]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    most, predicted = map(int, done.stdout.split())
    return most, predicted


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_memory_stays_within_its_bound(tmp_path):
    """A gibibyte of weights in less address space than that plus Python's own needs."""
    sparse_checkpoint(tmp_path / "source", 1)
    most, predicted = run_bounded(tmp_path / "source", tmp_path / "target", 1.5)
    assert most < predicted + 120_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """16 GiB under 1.5 GiB of address space; 12 GiB more do not take one block of 32 MiB more.

    Peaks are near 50 MB and differ by 10 MB from run to run, as blocks happen to overlap.
    """
    peaks = []
    for gib in (4, 16):
        sparse_checkpoint(tmp_path / f"source{gib}", gib)
        target = tmp_path / f"target{gib}"
        peaks.append(run_bounded(tmp_path / f"source{gib}", target, 1.5)[0])
    assert abs(peaks[1] - peaks[0]) < 2**25


def test_the_bound_counts_matrices_of_experts_that_are_read_whole(tmp_path, monkeypatch):
    nbytes = 2 * 4096 * 2048
    entry = {"dtype": "BF16", "shape": [1, 4096, 2048], "data_offsets": [0, nbytes]}
    header = json.dumps({"model.layers.0.mlp.experts.down_proj": entry}).encode()
    (tmp_path / "source").mkdir()
    with (tmp_path / "source" / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)
    write_json(tmp_path / "source" / "config.json", {"model_type": "gpt_oss"})

    def peak():
        return binq.quantize_checkpoint(
            tmp_path / "source", tmp_path / "target", "binary", method="absmean", dry_run=True
        ).peak_bytes

    whole = peak()
    monkeypatch.setattr("binq.convert.plan.SHARED_BYTES", nbytes - 1)
    assert whole - peak() == 3 * nbytes
