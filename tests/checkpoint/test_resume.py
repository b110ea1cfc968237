"""A conversion that was killed goes on, and gives the same bytes."""

import os
import subprocess
import sys
import textwrap

import pytest
from checkpoint.folders import SMALL, tree

import binq


def converter(source, target, *more):
    code = f"""
        import binq, sys
        binq.quantize_checkpoint({str(source)!r}, {str(target)!r}, max_shard_bytes=9000,
                                 resume="resume" in sys.argv)
    """
    return [sys.executable, "-c", textwrap.dedent(code), *more]


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("call", ["rename", "renameat2", "fsync"])
def test_a_kill_at_any_point_is_made_good_by_resume(source, tmp_path, call):
    """SIGKILL at every rename and fsync in turn: the resumed tree is that of an unbroken run."""
    if subprocess.run(["which", "strace"], capture_output=True).returncode:
        pytest.skip("needs strace")
    binq.quantize_checkpoint(source, tmp_path / "unbroken", **SMALL)
    wanted = tree(tmp_path / "unbroken")
    killed = 0
    for when in (1, 2, 3, 5, 8, 13, 21, 34):
        target = tmp_path / f"{call}{when}"
        trace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:signal=SIGKILL:when={when}"]
        done = subprocess.run([*trace, *inject, *converter(source, target)], capture_output=True)
        if done.returncode == 0:
            break
        killed += 1
        for path in tmp_path.rglob("*.safetensors"):
            if not path.name.startswith(("stray", ".")) and "original" not in path.parts:
                binq.load_file(path)  # no final name is ever a broken file
        if not target.exists():  # else the kill came after the last rename
            again = subprocess.run(
                converter(source, target, "resume"), capture_output=True, text=True
            )
            assert again.returncode == 0, again.stderr
        assert tree(target) == wanted
        assert not target.with_name(target.name + ".partial").exists()
    if call == "fsync":
        assert killed >= 4


def test_resume_keeps_finished_shards_and_refuses_other_settings(source, tmp_path, monkeypatch):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    partial = tmp_path / "target.partial"
    first = next(partial.glob("*.safetensors"))
    time_before = first.stat().st_mtime_ns
    with pytest.raises(ValueError, match="other settings"):
        binq.quantize_checkpoint(source, target, "ternary", resume=True, **SMALL)
    os.utime(source / "model-0.safetensors", ns=(1, 1))
    with pytest.raises(ValueError, match="another source"):
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    # Without resume the old work is thrown away and all is done again.
    binq.quantize_checkpoint(source, target, **SMALL)
    assert (target / first.name).stat().st_mtime_ns > time_before


def test_resume_does_not_repeat_a_shard(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    first = next((tmp_path / "target.partial").glob("*.safetensors"))
    time_before = first.stat().st_mtime_ns
    binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    assert (target / first.name).stat().st_mtime_ns == time_before
