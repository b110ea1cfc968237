"""What exists at the target is safe, and runs side by side do not harm each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.folders import deep_source, names

import binq
from binq.convert.lock import Lock
from binq.convert.verify import verify

SMALL = {"max_shard_bytes": 3000}


@pytest.fixture
def source(tmp_path):
    return deep_source(tmp_path)


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
    for stray in (
        ".model-00002-of-00003.safetensors.7-ab.tmp",
        "model-00009-of-00009.safetensors",
        ".binq-conversion.lock.7-0123abcd.tmp",
    ):
        (partial / stray).write_bytes(b"broken")
    lock = partial / "binq-conversion-2-of-2.lock"
    lock.write_text("elsewhere 7")
    with pytest.raises(FileExistsError, match=r"if it is dead, delete .*conversion-2-of-2\.lock"):
        binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    lock.unlink()
    binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    assert names(target) == names(tmp_path / "clean")


def test_a_folder_within_the_work_stops_it_before_anything_is_lost(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    partial = tmp_path / "target.partial"
    (partial / ".git").mkdir()
    before = names(partial)
    for more in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(FileExistsError, match=r"\.git is in the way"):
            binq.quantize_checkpoint(source, target, **more, **SMALL)
    assert names(partial) == before


def test_files_that_only_look_like_ours_are_left_alone(source, tmp_path):
    partial = tmp_path / "target.partial"
    partial.mkdir()
    for name in (".git", "lockfile.txt", ".hidden.tmp"):
        (partial / name).write_text("mine")
        with pytest.raises(FileExistsError, match="is in the way"):
            binq.quantize_checkpoint(source, tmp_path / "target")
        (partial / name).unlink()


def test_any_file_of_the_source_reaches_the_target(source, tmp_path):
    for name in ("lock", "binq.lock", "readme.report.json"):
        (source / name).write_text(name)
    binq.quantize_checkpoint(source, tmp_path / "target")
    for name in ("lock", "binq.lock", "readme.report.json"):
        assert (tmp_path / "target" / name).read_text() == name


def test_a_shard_that_was_cut_short_is_done_again(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, part=(1, 2), **SMALL)
    shard = next((tmp_path / "target.partial").glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1)
    binq.quantize_checkpoint(source, target, resume=True, **SMALL)
    for path in target.iterdir():
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()


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


def test_of_many_at_once_one_wins(source, tmp_path):
    code = "import binq, sys; binq.quantize_checkpoint(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "target")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs].count(0) == 1
    for error in filter(None, errors):
        last = error.splitlines()[-1]
        assert "works there" in last or "is not empty" in last or "just now" in last
    assert list(verify(tmp_path / "target", source)) == []


def test_a_mount_point_is_refused_before_hours_of_work(source, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == target)
    with pytest.raises(ValueError, match=r"dst must not be a mount point, got .*target"):
        binq.quantize_checkpoint(source, target)
    assert names(tmp_path) == ["home", "target"]


@pytest.mark.skipif(os.name != "posix", reason="has a root folder")
def test_the_root_is_refused(source):
    with pytest.raises(ValueError, match="dst must not be a mount point, got /:"):
        binq.quantize_checkpoint(source, "/")


def test_who_comes_second_does_nothing_and_leaves_nothing(source, tmp_path, monkeypatch):
    """Another process completes the work between the first look and the lock."""
    target = tmp_path / "target"

    class Late(Lock):
        def __enter__(self):
            super().__enter__()
            target.mkdir()
            (target / "model.safetensors").touch()

    monkeypatch.setattr("binq.convert.work.Lock", Late)
    with pytest.raises(FileExistsError, match="is not empty"):
        binq.quantize_checkpoint(source, target, resume=True)
    assert names(tmp_path) == ["home", "target"]


def test_without_parts_there_is_nothing_to_complete(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="no part was begun, so there is nothing"):
        binq.quantize_checkpoint(source, tmp_path / "target", finalize=True)
    assert names(tmp_path) == ["home"]


def test_the_working_folder_is_no_default(source):
    with pytest.raises(ValueError, match=r"^dst must be a path, got ''$"):
        binq.quantize_checkpoint(source, "", overwrite=True)


def test_a_source_where_the_work_would_be_is_refused(source, tmp_path):
    moved = tmp_path / "model.partial"
    source.rename(moved)
    with pytest.raises(ValueError, match=r"the source is .*model.partial, which would be the work"):
        binq.quantize_checkpoint(moved, tmp_path / "model")
    assert names(moved) == ["config.json", "model.safetensors"]


def test_names_as_long_as_they_may_be_are_copied(source, tmp_path):
    name = "n" * 255
    (source / name).write_text("long")
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert (tmp_path / "target" / name).read_text() == "long"


@pytest.mark.parametrize("name", [".nfs00000000123", ".fuse_hidden0000"])
def test_names_of_network_file_systems_are_nobodys(source, tmp_path, name):
    """Such files are deleted and in use; only the system can delete them, and does."""
    partial = tmp_path / "target.partial"
    partial.mkdir()
    (partial / name).touch()
    binq.quantize_checkpoint(source, tmp_path / "target", part=(1, 1))
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert (tmp_path / "target" / name).exists()


def test_files_that_work_leaves_are_not_taken_from_the_source(source, tmp_path):
    for name in (
        ".binq-replaced",
        "binq-conversion.lock",
        "binq-conversion.json",
        "model-00001-of-00001.report.json",
        "binq-report.json",
        ".notes.12-0123456789ab.tmp",
        "pytorch_model.bin",
        "model.onnx",
        "pytorch_model.bin.index.json",
    ):
        (source / name).write_text("{}")
    (source / "tokenizer.json").write_text("{}")
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert names(tmp_path / "target") == [
        "README.md",
        "binq-report.json",
        "binq.safetensors.index.json",
        "config.json",
        "model-00001-of-00001.safetensors",
        "tokenizer.json",
    ]
    assert "sqnr" in (tmp_path / "target" / "binq-report.json").read_text()
    (tmp_path / "target" / "tokenizer.json").unlink()
    with pytest.raises(FileExistsError, match="files are missing"):
        binq.quantize_checkpoint(source, tmp_path / "target", resume=True)


def test_nothing_beside_a_single_file_is_copied(source, tmp_path):
    (source / "diary.txt").touch()
    binq.quantize_checkpoint(source / "model.safetensors", tmp_path / "target")
    assert "diary.txt" not in names(tmp_path / "target")
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["model_type"] == "qwen3"


def test_a_file_that_cannot_be_copied_is_told_of_before_the_work(source, tmp_path, monkeypatch):
    (source / "tokenizer.json").touch()
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "tokenizer.json")
    with pytest.raises(PermissionError, match=r"cannot be read, to be copied: .*tokenizer.json"):
        binq.quantize_checkpoint(source, tmp_path / "target")
    assert names(tmp_path) == ["home"]


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced elsewhere")
def test_files_and_folders_are_on_the_disk_before_they_have_their_names(
    source, tmp_path, monkeypatch
):
    """Of each shard: its bytes, then its name; of the whole: the names in it, then its own."""
    events = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def synced(descriptor):
        events.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def named(move):
        def moved(self, to):
            events.append(("name", self.stat().st_ino, Path(to).name))
            return move(self, to)

        return moved

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", named(rename))
    monkeypatch.setattr(Path, "replace", named(replace))
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target)
    shard = next(event for event in events if event[-1] == "model-00001-of-00001.safetensors")
    assert ("sync", shard[1]) in events[: events.index(shard)]
    folder = ("sync", target.stat().st_ino)
    assert folder == events[events.index(shard) + 1]
    last = next(event for event in events if event[-1] == "target")
    assert folder == events[events.index(last) - 1]
    assert ("sync", tmp_path.stat().st_ino) == events[events.index(last) + 1]
