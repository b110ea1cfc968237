"""A conversion that was killed goes on, and gives the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from checkpoints.folders import LAYER, SMALL, tree

import binq
from binq.convert import convert
from binq.convert.fingerprint import source_sample
from binq.convert.verify import verify
from binq.files.checkpoint import Checkpoint


def converter(source, target, *more):
    code = f"""
        import binq, sys
        binq.quantize_checkpoint({str(source)!r}, {str(target)!r}, max_shard_bytes=9000,
                                 resume="resume" in sys.argv, overwrite="overwrite" in sys.argv,
                                 part=(1, 2) if "part" in sys.argv else None)
    """
    return [sys.executable, "-c", textwrap.dedent(code), *more]


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def run_signalled(calls, signal, when, command):
    """Runs a command that gets a signal at the ``when``-th of some system calls."""
    trace = ["strace", "-f", "-o", os.devnull, "-e", f"trace={calls}"]
    inject = ["-e", f"inject={calls}:signal={signal}:when={when}"]
    return subprocess.run([*trace, *inject, *command], capture_output=True, text=True)


WHEN = (1, 2, 3, 5, 8, 13, 21, 34, 55)
RENAMES, LINKS = "rename,renameat,renameat2", "link,linkat,unlink,unlinkat,mkdir,rmdir"


@needs_strace
@pytest.mark.parametrize(
    ("calls", "overwrite"),
    [("write,writev", False), ("fsync", False), (RENAMES, False), (LINKS, False), (RENAMES, True),
     (LINKS, True)],
)  # fmt: skip
def test_a_kill_at_any_point_is_made_good_by_resume(source, tmp_path, calls, overwrite):
    """SIGKILL at system calls that change the disk: the resumed tree is that of an unbroken run."""
    binq.quantize_checkpoint(source, tmp_path / "unbroken", **SMALL)
    wanted = tree(tmp_path / "unbroken")
    killed = 0
    for when in WHEN:
        target = tmp_path / f"target{when}"
        settings = ["overwrite"] if overwrite else []
        if overwrite:
            (target / "old").mkdir(parents=True)
            (target / "old" / "notes.txt").write_text("of an earlier model")
        done = run_signalled(calls, "SIGKILL", when, converter(source, target, *settings))
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


def dropped(tensor):
    """Takes a tensor out of the index; its file keeps it."""

    def change(source):
        path = source / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        del index["weight_map"][tensor]
        path.write_text(json.dumps(index))

    return change


def configured(source):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "rope_theta": 10000}))


def longer(source):
    """Another size at the same time."""
    path = source / "model-1.safetensors"
    time = path.stat().st_mtime_ns
    binq.save_file({**binq.load_file(path), "more": np.ones(9)}, path)
    os.utime(path, ns=(time, time))


def newer(source):
    os.utime(source / "model-2.safetensors", ns=(1, 1))


CHANGES = {
    "the weight map": dropped(f"{LAYER}.mlp.up_proj.bias"),
    "the configuration": configured,
    "a size": longer,
    "a time": newer,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_work_on_a_source_that_changed_is_not_gone_on_with(source, tmp_path, change):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    change(source)
    with pytest.raises(ValueError, match="another source"):
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("part", [None, (1, 2)])
def test_a_source_that_changes_meanwhile_is_never_half_converted(source, tmp_path, change, part):
    target = tmp_path / "target"
    left = [change]

    def progress(_):
        while left:
            left.pop()(source)

    with pytest.raises(ValueError, match="changed while it was read"):
        binq.quantize_checkpoint(source, target, part=part, progress=progress, **SMALL)
    assert not target.exists()
    with pytest.raises(ValueError, match="another source"):
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    binq.quantize_checkpoint(source, target, **SMALL)
    assert list(verify(target, source)) == []


def test_a_source_that_changes_while_it_is_planned_is_noticed(source, tmp_path, monkeypatch):
    """The plan reads all weights of low-bit floats, which takes a while."""
    plan = convert.make_plan

    def slow(opened, settings):
        made = plan(opened, settings)
        newer(source)
        return made

    monkeypatch.setattr(convert, "make_plan", slow)
    with pytest.raises(ValueError, match="changed while it was read"):
        binq.quantize_checkpoint(source, tmp_path / "target", **SMALL)


@needs_strace
@pytest.mark.parametrize("more", [[], ["overwrite"]])
def test_a_kill_while_old_work_is_thrown_away_is_made_good(source, tmp_path, more):
    binq.quantize_checkpoint(source, tmp_path / "unbroken", **SMALL)
    wanted = tree(tmp_path / "unbroken")
    for when in range(1, 9):
        target = tmp_path / f"target{when}"
        binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
        done = run_signalled("unlink", "SIGKILL", when, converter(source, target, *more))
        assert done.returncode
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)
        assert tree(target) == wanted


def test_a_source_that_was_trained_on_in_the_same_second_differs(source):
    """Types, files and bytes count, not only names and shapes."""
    with Checkpoint(source) as opened:
        before = source_sample(opened)
    path = source / "model-0.safetensors"
    tensors = {name: np.array(w) for name, w in binq.load_file(path).items()}
    binq.save_file({name: w.view(np.uint16) for name, w in tensors.items()}, path)
    with Checkpoint(source) as opened:
        assert source_sample(opened) != before
    binq.save_file(tensors, path)
    with Checkpoint(source) as opened:
        assert source_sample(opened) == before
    path.rename(source / "model-9.safetensors")
    index = source / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-0.", "model-9."))
    with Checkpoint(source) as opened:
        assert source_sample(opened) != before


@needs_strace
@pytest.mark.parametrize("more", [["resume"], ["part"]])
def test_kills_do_not_pile_up_temporary_files(source, tmp_path, more):
    target = tmp_path / "target"
    counts = []
    for _ in range(3):
        run_signalled("fsync", "SIGKILL", 1, converter(source, target, *more))
        counts.append(len(list((tmp_path / "target.partial").glob(".*.tmp"))))
    assert counts == [1, 1, 1]


@needs_strace
def test_sigterm_cleans_up_as_ctrl_c_does(source, tmp_path):
    """The signal comes at the first fsync, when a shard lies under its temporary name."""
    command = [sys.executable, "-m", "binq", "quantize", str(source), str(tmp_path / "target")]
    done = run_signalled("fsync", "SIGTERM", 1, command)
    assert done.returncode == 130, done.stderr
    assert "--resume goes on with finished shards" in done.stderr
    assert not list((tmp_path / "target.partial").glob(".*.tmp"))
    assert not list((tmp_path / "target.partial").glob("*.lock"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
