"""What lies at the target is safe, and runs side by side do not harm each other."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import binq
from binq.checkpoint.lock import Lock
from binq.checkpoint.verify import verify

SMALL = {"max_shard_bytes": 3000}


@pytest.fixture
def source(tmp_path):
    """A model in one file, a folder deep: home/models/source."""
    folder = tmp_path / "home" / "models" / "source"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    tensors = {
        f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((40, 64)).astype(np.float16)
        for i in range(5)
    }
    binq.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("up", [1, 2])
def test_a_folder_that_holds_the_source_is_never_replaced(source, up):
    target = source.parents[up - 1]
    with pytest.raises(ValueError, match="dst must not hold the source"):
        binq.quantize_checkpoint(source, target, overwrite=True)
    assert names(source) == ["config.json", "model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_folder_that_holds_the_files_behind_links_is_never_replaced(source, tmp_path):
    """As the caches of model hubs have it: a folder of links to blobs."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (source / "model.safetensors").rename(blobs / "0123")
    (source / "model.safetensors").symlink_to(blobs / "0123")
    with pytest.raises(ValueError, match="dst must not hold the source"):
        binq.quantize_checkpoint(source, blobs, overwrite=True)
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert list(verify(tmp_path / "target", source)) == []


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_at_the_target_stays_a_link(source, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    for format in ("int4", "ternary"):
        binq.quantize_checkpoint(source, link, format, overwrite=True)
        assert link.is_symlink()
        assert json.loads((real / "config.json").read_text())["quantization_config"]["format"] == (
            format
        )
    assert names(tmp_path) == ["home", "link", "real"]


def test_the_current_folder_may_be_the_target(source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    binq.quantize_checkpoint(source, ".")
    assert "config.json" in names(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    binq.quantize_checkpoint(source, "new")
    assert "config.json" in names(tmp_path / "new")


def test_a_folder_of_the_users_in_the_way_is_left_alone(source, tmp_path):
    partial = tmp_path / "target.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("years of work")
    (partial / "config.json").write_text("[]")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="is in the way"):
            binq.quantize_checkpoint(source, tmp_path / "target", resume=resume)
    assert (partial / "thesis.txt").read_text() == "years of work"


def test_what_killed_runs_left_does_not_reach_the_target(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "clean", **SMALL)
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    partial = tmp_path / "target.partial"
    for stray in (".model-00002-of-00003.safetensors.7-ab.tmp", "model-00009-of-00009.safetensors"):
        (partial / stray).write_bytes(b"broken")
    (partial / "lock-2-of-2").write_text("elsewhere 7")
    with pytest.raises(FileExistsError, match=r"if it is dead, delete .*lock-2-of-2"):
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    (partial / "lock-2-of-2").unlink()
    binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    assert names(target) == names(tmp_path / "clean")


def test_a_run_killed_before_the_last_rename_can_begin_again(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "target")
    wanted = names(tmp_path / "target")
    (tmp_path / "target").rename(tmp_path / "target.partial")
    binq.quantize_checkpoint(source, tmp_path / "target", resume=True)
    assert names(tmp_path) == ["home", "target"]
    assert names(tmp_path / "target") == wanted


def test_resume_of_a_complete_conversion_does_nothing(source, tmp_path):
    target = tmp_path / "target"
    done = binq.quantize_checkpoint(source, target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    again = binq.quantize_checkpoint(source, target, resume=True)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert again.bytes_after == done.bytes_after
    assert not again.dry_run
    with pytest.raises(FileExistsError, match="not empty"):
        binq.quantize_checkpoint(source, target, "ternary", resume=True)
    next(target.glob("*.safetensors")).unlink()
    with pytest.raises(FileExistsError, match="not empty"):
        binq.quantize_checkpoint(source, target, resume=True)


def test_parts_run_side_by_side(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    target = tmp_path / "target"
    code = "import binq, sys; i = int(sys.argv[3]); "
    code += "binq.quantize_checkpoint(*sys.argv[1:3], max_shard_bytes=3000, part=(i, 3))"
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(source), str(target), str(i)])
        for i in (1, 2, 3)
    ]
    assert [run.wait() for run in runs] == [0, 0, 0]
    binq.quantize_checkpoint(source, target, finalize=True, **SMALL)
    assert names(target) == names(tmp_path / "alone")
    for path in target.iterdir():
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()


def test_a_living_process_keeps_others_out(source, tmp_path):
    partial = tmp_path / "target.partial"
    partial.mkdir()
    whole = Lock(partial)
    with whole:
        text = whole.path.read_text()
        host = text.partition(" ")[0]
        Lock(partial).check_free()  # our own
        (partial / "lock").write_text(f"{host} {os.getppid()}")
        for part in (None, (1, 2)):
            with pytest.raises(FileExistsError, match="works there"), Lock(partial, part):
                pass
        (partial / "lock").unlink()
        (partial / "lock-1-of-2").write_text(f"{host} {os.getppid()}")
        with pytest.raises(FileExistsError, match="works there"), Lock(partial):
            pass
        with Lock(partial, (2, 2)), Lock(partial, (1, 2)):
            assert names(partial) == ["lock-1-of-2", "lock-2-of-2"]
    assert names(partial) == []


@pytest.mark.skipif(os.name != "posix", reason="needs to ask for a process")
def test_a_dead_process_keeps_nobody_out(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = Lock(tmp_path).text.partition(" ")[0]
    (tmp_path / "lock").write_text(f"{host} {gone.pid}")
    with Lock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{host} {os.getpid()}"
