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
                                 resume="resume" in sys.argv, overwrite="overwrite" in sys.argv)
    """
    return [sys.executable, "-c", textwrap.dedent(code), *more]


WHEN = (1, 2, 3, 5, 8, 13, 21, 34, 55)
RENAMES, LINKS = "rename,renameat,renameat2", "link,linkat,unlink,unlinkat,mkdir,rmdir"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("calls", "overwrite"),
    [("write,writev", False), ("fsync", False), (RENAMES, False), (LINKS, False), (RENAMES, True),
     (LINKS, True)],
)  # fmt: skip
def test_a_kill_at_any_point_is_made_good_by_resume(source, tmp_path, calls, overwrite):
    """SIGKILL at system calls that change the disk: the resumed tree is that of an unbroken run."""
    if subprocess.run(["which", "strace"], capture_output=True).returncode:
        pytest.skip("needs strace")
    binq.quantize_checkpoint(source, tmp_path / "unbroken", **SMALL)
    wanted = tree(tmp_path / "unbroken")
    killed = 0
    for when in WHEN:
        target = tmp_path / f"target{when}"
        settings = ["overwrite"] if overwrite else []
        if overwrite:
            (target / "old").mkdir(parents=True)
            (target / "old" / "notes.txt").write_text("of an earlier model")
        trace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}"]
        inject = ["-e", f"inject={calls}:signal=SIGKILL:when={when}"]
        done = subprocess.run(
            [*trace, *inject, *converter(source, target, *settings)], capture_output=True
        )
        if done.returncode == 0:
            break
        killed += 1
        for path in tmp_path.rglob("*.safetensors"):
            if not path.name.startswith(("stray", ".")) and "original" not in path.parts:
                binq.load_file(path)  # no final name is ever a broken file
        finished = times_of_results(target)
        command = converter(source, target, "resume", *settings)
        again = subprocess.run(command, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert tree(target) == wanted
        assert not target.with_name(target.name + ".partial").exists()
        for shard, time in finished.items():
            assert (target / shard).stat().st_mtime_ns == time  # not done a second time
    assert killed >= 4


def times_of_results(target):
    """The time of each shard that is done, before or after the folder has its name."""
    results = [
        path
        for folder in (target, target.with_name(target.name + ".partial"))
        for path in folder.glob("*.report.json")
    ]
    shards = [path.with_name(path.name.replace(".report.json", ".safetensors")) for path in results]
    return {shard.name: shard.stat().st_mtime_ns for shard in shards}


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
