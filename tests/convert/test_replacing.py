"""A target that is there already: complete, in the way, or to be replaced, which comes last."""

import os
import shutil

import numpy as np
import pytest
from checkpoints.folders import deep_source, names

import binq
from binq.convert.verify import verify

SMALL = {"max_shard_bytes": 3000}


@pytest.fixture
def source(tmp_path):
    return deep_source(tmp_path)


def between_the_renames(source, target):
    """As a kill leaves it: the target's old folder within the finished work, none at its name."""
    binq.quantize_checkpoint(source, target, part=(1, 1))
    old = target.with_name(target.name + ".partial") / ".binq-replaced"
    old.mkdir()
    (old / "thesis.txt").write_text("years of work")
    return old


@pytest.mark.parametrize("way", ["resume", "overwrite", "neither"])
def test_what_was_about_to_be_replaced_is_not_lost_before_its_time(source, tmp_path, way):
    """A kill between the last two renames: the old folder lies within the finished one."""
    target = tmp_path / "target"
    partial = between_the_renames(source, target).parent
    if way == "neither":
        with pytest.raises(FileExistsError, match="is not empty"):
            binq.quantize_checkpoint(source, target)
        assert names(target) == ["thesis.txt"]
        return
    binq.quantize_checkpoint(source, target, **{way: True})
    assert "thesis.txt" not in names(target)
    assert ".binq-replaced" not in names(target)
    assert not partial.exists()
    assert list(verify(target, source)) == []


def test_resume_of_a_complete_conversion_does_nothing(source, tmp_path):
    target = tmp_path / "target"
    done = binq.quantize_checkpoint(source, target)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    for more in ({"resume": True}, {"finalize": True}, {"part": (1, 2)}):
        again = binq.quantize_checkpoint(source, target, **more)
        assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
        assert again.bytes_after == done.bytes_after
        assert again.bytes_done == 0
        assert not again.dry_run


def test_resume_is_no_excuse_for_other_settings_or_another_source(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target, embeddings="int4", **SMALL)
    for more in (
        {"format": "ternary"},
        {"embeddings": "ternary"},
        {"lm_head": "keep"},
        {"max_shard_bytes": 10_000},
        {"rules": ["*layers.1*=keep"]},
        {"nonfinite": "zero"},
    ):
        settings = {"embeddings": "int4", **SMALL, **more}
        with pytest.raises(FileExistsError, match="not what this conversion makes"):
            binq.quantize_checkpoint(source, target, resume=True, **settings)
    settings = {"embeddings": "int4", **SMALL}
    assert binq.quantize_checkpoint(source, target, resume=True, **settings).tensors
    # The same files, newer; then other weights that lay there before.
    model = source / "model.safetensors"
    time = model.stat().st_mtime_ns
    os.utime(model, ns=(time + 10**12, time + 10**12))
    with pytest.raises(FileExistsError, match="not what this conversion makes"):
        binq.quantize_checkpoint(source, target, resume=True, **settings)
    tensors = {name: np.array(w) for name, w in binq.load_file(model).items()}
    tensors["model.layers.3.mlp.up_proj.weight"][20] *= 2
    binq.save_file(tensors, model)
    os.utime(model, ns=(time, time))
    with pytest.raises(FileExistsError, match="not what this conversion makes"):
        binq.quantize_checkpoint(source, target, resume=True, **settings)


def test_resume_of_an_incomplete_target_is_refused(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target)
    next(target.glob("*.safetensors")).unlink()
    with pytest.raises(FileExistsError, match="not empty"):
        binq.quantize_checkpoint(source, target, resume=True)


def test_a_report_of_finished_work_has_the_sizes_on_disk(source, tmp_path):
    """Scales that float16 does not hold are float32: the plan cannot know it."""
    w = np.random.default_rng(4).standard_normal((32, 64)) * 1e7
    binq.save_file({"model.layers.0.mlp.up_proj.weight": w}, source / "model.safetensors")
    done = binq.quantize_checkpoint(source, tmp_path / "target")
    again = binq.quantize_checkpoint(source, tmp_path / "target", resume=True)
    assert again.bytes_after == done.bytes_after
    plan = binq.quantize_checkpoint(source, tmp_path / "other", dry_run=True)
    assert plan.bytes_after < done.bytes_after


def test_an_empty_folder_at_the_target_does_not_cost_what_lay_there(source, tmp_path):
    target = tmp_path / "target"
    between_the_renames(source, target)
    target.mkdir()
    with pytest.raises(FileExistsError, match="is not empty"):
        binq.quantize_checkpoint(source, target)
    assert names(target) == ["thesis.txt"]
    assert not (tmp_path / "target.partial" / ".binq-replaced").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_old_folders_none_is_deleted(source, tmp_path, resume):
    target = tmp_path / "target"
    old = between_the_renames(source, target)
    target.mkdir()
    (target / "notes.txt").write_text("newer")
    with pytest.raises(FileExistsError, match="move one of them away"):
        binq.quantize_checkpoint(source, target, overwrite=True, resume=resume)
    assert names(old) == ["thesis.txt"]
    assert names(target) == ["notes.txt"]


def test_who_is_told_to_delete_work_hears_of_what_lies_in_it(source, tmp_path):
    target = tmp_path / "target"
    between_the_renames(source, target)
    with pytest.raises(ValueError, match=r"move .*\.binq-replaced away, which was"):
        binq.quantize_checkpoint(source, target, "ternary", resume=True)


def test_a_target_that_was_filled_meanwhile_is_not_replaced(source, tmp_path):
    target = tmp_path / "target"

    def fill(_):
        target.mkdir(exist_ok=True)
        (target / "thesis.txt").write_text("years of work")

    with pytest.raises(FileExistsError, match="is not empty"):
        binq.quantize_checkpoint(source, target, progress=fill)
    assert names(target) == ["thesis.txt"]


def test_an_old_folder_that_cannot_be_deleted_is_told_of_and_the_work_is_done(
    source, tmp_path, monkeypatch
):
    target = tmp_path / "target"
    (target / "old").mkdir(parents=True)
    rmtree = shutil.rmtree

    def refuse(path, *more, **kwargs):
        if str(path).endswith(".binq-replaced"):
            raise PermissionError(13, "not yours", str(path))
        rmtree(path, *more, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.warns(UserWarning, match="is complete; what lay there before is in .binq-repl"):
            binq.quantize_checkpoint(source, target, overwrite=True)
    assert names(target / ".binq-replaced") == ["old"]
    assert not [name for name in names(target) if "conversion" in name or ".report" in name]
    binq.quantize_checkpoint(source, target, resume=True)
    assert ".binq-replaced" not in names(target)


def test_a_target_that_may_not_be_replaced_is_told_of_before_the_work(
    source, tmp_path, monkeypatch
):
    target = tmp_path / "target"
    (target / "old").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: path != target)
    with pytest.raises(PermissionError, match=r"may not be replaced: .*target"):
        binq.quantize_checkpoint(source, target, overwrite=True)
    assert names(tmp_path) == ["home", "target"]


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may do anything")
def test_read_only_folders_are_replaced_too(source, tmp_path):
    target = tmp_path / "target"
    (target / "old" / "inner").mkdir(parents=True)
    (target / "old" / "inner" / "file").touch()
    (target / "old" / "inner").chmod(0o500)
    (target / "old").chmod(0o500)
    binq.quantize_checkpoint(source, target, overwrite=True)
    assert "old" not in names(target)
    assert ".binq-replaced" not in names(target)


def test_a_newer_tokenizer_is_not_taken_for_the_one_that_was_copied(source, tmp_path):
    tokenizer = source / "tokenizer.json"
    tokenizer.write_text("{}")
    binq.quantize_checkpoint(source, tmp_path / "target")
    time = tokenizer.stat().st_mtime_ns + 10**12
    os.utime(tokenizer, ns=(time, time))
    with pytest.raises(FileExistsError, match="the source is newer"):
        binq.quantize_checkpoint(source, tmp_path / "target", resume=True)


def test_parts_that_may_overwrite_repair_a_complete_target(source, tmp_path):
    target = tmp_path / "target"
    binq.quantize_checkpoint(source, target)
    shard = next(target.glob("*.safetensors"))
    good = shard.read_bytes()
    shard.write_bytes(good[:-8] + b"damaged!")
    binq.quantize_checkpoint(source, target, part=(1, 1), overwrite=True)
    with pytest.raises(FileExistsError, match="beside it lies unfinished work"):
        binq.quantize_checkpoint(source, target, resume=True)
    binq.quantize_checkpoint(source, target, finalize=True, overwrite=True)
    assert shard.read_bytes() == good
