"""What is copied: no more than lies in the source's folder, readable by no more than it was."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from checkpoints.folders import names, one_file

import binq
from binq.convert.verify import verify

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs links and file modes")
W = {"model.norm.weight": np.ones(4, np.float32)}
PACKED = [
    "README.md",
    "binq-report.json",
    "binq.safetensors.index.json",
    "config.json",
    "model-00001-of-00001.safetensors",
]


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_links_out_of_the_folder_are_named_and_not_followed(tmp_path):
    source = one_file(tmp_path / "source", W)
    (tmp_path / "secret").write_text("SECRET")
    (source / "tokenizer.json").symlink_to("../secret")
    (source / "notes.txt").write_text("mine")
    (source / "also.txt").symlink_to("notes.txt")
    (source / "nowhere.txt").symlink_to("../nothing")
    report = binq.quantize_checkpoint(source, tmp_path / "target")
    assert [n for n in names(tmp_path / "target") if n not in PACKED] == ["also.txt", "notes.txt"]
    (note,) = (w for w in report.warnings if "link" in w)
    assert note == f"tokenizer.json was not copied: it is a link to ../secret, outside of {source}"
    assert binq.quantize_checkpoint(source, tmp_path / "target", resume=True).notes == report.notes


def test_a_cache_of_hugging_face_is_copied_through_its_links(tmp_path):
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    revision = tmp_path / "models--a--b" / "snapshots" / "0123abcd"
    one_file(revision, W)
    (revision / "tokenizer.json").write_text("{}")
    for number, path in enumerate(sorted(revision.iterdir())):
        path.rename(blobs / f"{number}")
        path.symlink_to(f"../../blobs/{number}")
    (revision / "evil.json").symlink_to("../../../elsewhere")
    (tmp_path / "elsewhere").write_text("SECRET")
    binq.quantize_checkpoint(revision, tmp_path / "target")
    assert names(tmp_path / "target") == [*PACKED, "tokenizer.json"]
    assert not (tmp_path / "target" / "tokenizer.json").is_symlink()


@pytest.fixture
def _umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": np.zeros(3)}, path)
    assert mode(path) == 0o644
    for wanted in (0o600, 0o640, 0o444, 0o666):
        path.chmod(wanted)
        binq.save_file({"a": np.zeros(3)}, path)
        assert mode(path) == wanted


@pytest.mark.usefixtures("_umask")
def test_what_is_made_of_private_files_is_private(tmp_path):
    source = one_file(tmp_path / "source", W)
    (source / "secret.txt").write_text("x")
    (source / "open.txt").write_text("x")
    for name, wanted in (("secret.txt", 0o600), ("open.txt", 0o666), ("config.json", 0o600)):
        (source / name).chmod(wanted)
    binq.quantize_checkpoint(source, tmp_path / "target")
    found = {path.name: mode(path) for path in (tmp_path / "target").iterdir()}
    card, _, index, config, shard = PACKED
    assert found.items() >= {
        shard: 0o644, index: 0o644, config: 0o600, card: 0o600,
        "secret.txt": 0o600, "open.txt": 0o644,
    }.items()  # fmt: skip
    (source / "model.safetensors").chmod(0o400)
    binq.quantize_checkpoint(source, tmp_path / "target", overwrite=True)
    assert {mode(tmp_path / "target" / name) for name in PACKED} == {0o600}


def test_what_killed_saves_of_another_library_left_is_not_copied(tmp_path):
    source = one_file(tmp_path / "source", W)
    (source / ".tmpAb12Cd").write_bytes(b"half a file")
    binq.quantize_checkpoint(source, tmp_path / "target")
    assert names(tmp_path / "target") == PACKED


def test_many_shards_are_open_in_small_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.files.reading._MOST_OPEN", 3)
    shards = {f"model.layers.{i}.mlp.up_proj.weight": f"m-{i}.safetensors" for i in range(40)}
    source = one_file(tmp_path / "source", W)
    (source / "model.safetensors").unlink()
    rng = np.random.default_rng(0)
    for name, file in shards.items():
        binq.save_file({name: rng.standard_normal((4, 32))}, source / file)
    index = '{"weight_map":' + str(shards).replace("'", '"') + "}"
    (source / "model.safetensors.index.json").write_text(index)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("nothing here says what is open")
    before, most = len(list(descriptors.iterdir())), 0

    def look(_):
        nonlocal most
        most = max(most, len(list(descriptors.iterdir())) - before)

    binq.quantize_checkpoint(source, tmp_path / "target", progress=look)
    assert most < 12
    assert list(verify(tmp_path / "target", source)) == []


def test_a_file_that_changed_between_two_looks_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("binq.files.reading._MOST_OPEN", 1)
    from binq.files.safetensors import SafetensorsFile

    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path in paths:
        binq.save_file({"a": np.arange(3)}, path)
    with SafetensorsFile(paths[0]) as first, SafetensorsFile(paths[1]) as second:
        assert second.read("a").tolist() == first.read("a").tolist() == [0, 1, 2]
        binq.save_file({"a": np.arange(4)}, paths[1])
        with pytest.raises(binq.FormatError, match=r"1\.safetensors: it changed while it was read"):
            second.read("a")
