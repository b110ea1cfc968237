"""Conversions to one place begin, meet and are killed at random: what appears there is whole."""

import os
import random
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from checkpoints.folders import one_file

import binq
from binq.convert.verify import verify

SECONDS = 40
CONVERT = """
    import random, sys, binq
    ways = [{}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True},
            {"part": (1, 2)}, {"part": (2, 2)}, {"finalize": True},
            {"finalize": True, "overwrite": True}]
    way, format = random.choice(ways), random.choice(["int4", "int4", "ternary"])
    try:
        binq.quantize_checkpoint(*sys.argv[1:], format, max_shard_bytes=3000, **way)
        print("done")
    except (OSError, ValueError):
        print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs to kill")
def test_what_appears_is_whole_whoever_is_killed(tmp_path):
    target = tmp_path / "target"
    rng = np.random.default_rng(0)
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((64, 64), dtype=np.float32)
        for i in range(8)
    }
    source = one_file(tmp_path / "source", tensors)
    command = [sys.executable, "-c", textwrap.dedent(CONVERT), str(source), str(target)]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    running = [start() for _ in range(4)]
    outcomes = {"done": 0, "refused": 0}
    killed = looked = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(random.random() / 10)
        for i, process in enumerate(running):
            if process.poll() is not None:
                out, error = process.communicate()
                assert not error
                outcomes[out.strip()] += 1
                running[i] = start()
        if random.random() < 0.35:
            i = random.randrange(4)
            running[i].kill()
            running[i].communicate()
            running[i] = start()
            killed += 1
        looked += look(target, source)
    for process in running:
        process.kill()
        process.communicate()
    assert min(killed, looked, *outcomes.values()) >= 10
    # And a way leads out of whatever is left.
    binq.quantize_checkpoint(source, target, overwrite=True)
    assert list(verify(target, source)) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def look(target, source):
    """Returns whether a target was there and is still the same folder; it must be a good one."""
    try:
        before = target.stat()
        problems = list(verify(target, source))
        after = target.stat()
        same = (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    except OSError:
        return False
    if same:
        assert problems == []
    return same
