"""Opening checkpoints: the index alone decides, and what is malformed is named."""

import json
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from checkpoints.fixtures import BF16, Written, floats, save
from checkpoints.models import gpt_oss, qwen3, qwen35
from safetensors.numpy import save_file

import binq
from binq.convert.inspect import inspect
from binq.convert.verify import verify
from binq.errors import FormatError
from binq.files import checkpoint
from binq.files.checkpoint import PLAIN_INDEX, Checkpoint
from binq.files.safetensors import SafetensorsFile
from binq.models import logical_tensors
from binq.storage.rows import float_columns, values_of


def test_index_alone_decides_which_files_belong(tmp_path):
    written = gpt_oss(tmp_path)
    save_file({"stray": np.zeros(3, np.float32)}, tmp_path / "model-99999.safetensors")
    with Checkpoint(tmp_path) as source:
        assert set(source.names) == set(written.stored)
        assert sorted(source.files) == [f"model-0000{i}-of-00002.safetensors" for i in range(3)]
        assert "embedding.weight" not in source


def test_tensor_that_the_index_leaves_out_is_no_part(tmp_path):
    written = qwen35(tmp_path)
    index = json.loads((tmp_path / PLAIN_INDEX).read_text())
    del index["weight_map"]["mtp.fc.weight"]
    (tmp_path / PLAIN_INDEX).write_text(json.dumps(index))
    with Checkpoint(tmp_path) as source:
        assert set(source.names) == set(written.stored) - {"mtp.fc.weight"}


def test_shards_are_opened_when_needed(tmp_path):
    qwen35(tmp_path)
    with Checkpoint(tmp_path) as source:
        (tmp_path / source.info("mtp.fc.weight").file).rename(tmp_path / "away.safetensors")
        other = next(name for name in source.names if source._map[name] not in source._files)
        source.info(other)
    with pytest.raises(FormatError, match="there is no such file"), Checkpoint(tmp_path) as source:
        source.read("mtp.fc.weight")


def test_single_file_and_path_of_a_file_open_alike(tmp_path):
    qwen3(tmp_path)
    with Checkpoint(tmp_path) as a, Checkpoint(tmp_path / "model.safetensors") as b:
        assert a.names == b.names
        assert a.config == b.config
        assert logical_tensors(a) == logical_tensors(b)


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "a/b.safetensors",
        "C:\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "x.bin",
        3,
        None,
        "/x",
        "a" * 300 + ".safetensors",
        "\ud800.safetensors",
        "\x1b[31ma\n.safetensors",
    ],
)
def test_index_may_not_point_elsewhere(tmp_path, file):
    qwen35(tmp_path)
    (tmp_path / PLAIN_INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(FormatError, match=r"tensor 'a' is placed in .*not in a \.safetensors file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "weight_map is missing, empty"),
        ('{"weight_map": []}', "weight_map is missing, empty"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "it has 'a' twice"),
        ("[" * 200_000, "not valid JSON"),
    ],
)
def test_malformed_index_is_named(tmp_path, text, reason):
    (tmp_path / PLAIN_INDEX).write_text(text)
    with pytest.raises(FormatError, match=reason) as error:
        Checkpoint(tmp_path)
    assert PLAIN_INDEX in str(error.value)


def test_tensor_missing_from_its_shard_is_named(tmp_path):
    qwen35(tmp_path)
    index = json.loads((tmp_path / PLAIN_INDEX).read_text())
    index["weight_map"]["ghost"] = next(iter(index["weight_map"].values()))
    (tmp_path / PLAIN_INDEX).write_text(json.dumps(index))
    with Checkpoint(tmp_path) as source, pytest.raises(FormatError, match="no tensor 'ghost'"):
        source.info("ghost")


def test_no_checkpoint_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        Checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        Checkpoint(tmp_path / "absent.safetensors")


def test_broken_config_is_named(tmp_path):
    qwen3(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FormatError, match=r"config\.json: not valid JSON"):
        Checkpoint(tmp_path)


def test_two_gguf_files_must_be_told_apart(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FormatError, match="2 GGUF files: name one"):
        Checkpoint(tmp_path)


def test_columns_and_spans_are_those_of_the_tensor(tmp_path):
    written = Written(tmp_path)
    stack = floats("stack", (3, 5, 7))
    written.put("stack", stack)
    save(written, {"model_type": "qwen3"})
    with Checkpoint(tmp_path) as source:
        for start, stop in ((0, 7), (2, 5), (6, 7), (3, 3)):
            part = source.read_transposed("stack", 1, start, stop)
            np.testing.assert_array_equal(part, stack[1, :, start:stop].T)
        np.testing.assert_array_equal(
            source.read_span("stack", 4, 9, (7,)), stack.reshape(15, 7)[4:9]
        )


@pytest.mark.parametrize("shared", [0, 1 << 25])
def test_columns_as_they_lie(tmp_path, monkeypatch, shared):
    monkeypatch.setattr(checkpoint, "SHARED_BYTES", shared)
    written = Written(tmp_path)
    stack = floats("stack", (3, 300, 40))
    written.put("stack", stack)
    save(written, {"model_type": "qwen3"})
    with Checkpoint(tmp_path) as source:
        for matrix in (1, 0, 2):
            for start, stop in ((0, 40), (0, 16), (16, 40), (3, 4)):
                part = source.read_columns("stack", matrix, start, stop)
                np.testing.assert_array_equal(part, stack[matrix, :, start:stop])


@pytest.mark.parametrize("piece", [7, 64, 1 << 22])
def test_a_matrix_is_read_once_for_all_of_its_columns(tmp_path, monkeypatch, piece):
    written = Written(tmp_path)
    stack = floats("stack", (9, 5, 8))
    written.put("stack", stack)
    save(written, {"model_type": "qwen3"})
    monkeypatch.setattr(checkpoint, "_PIECE_BYTES", piece)
    read = []
    once = SafetensorsFile.read_into

    def read_into(file, name, start, data):
        read.append(data.nbytes)
        once(file, name, start, data)

    monkeypatch.setattr(SafetensorsFile, "read_into", read_into)
    with Checkpoint(tmp_path) as source:
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda at: source.read_columns("stack", 0, at, at + 1), range(8))
            np.testing.assert_array_equal(np.hstack(list(parts)), stack[0])
        assert sum(read) == stack[0].nbytes
        assert max(read) <= piece
        assert not source._shared
        for matrix in range(9):  # of which nobody wants the rest
            source.read_columns("stack", matrix, 0, 4)
        assert len(source._shared) == 2
        source.read_columns("stack", 8, 4, 8)
        assert sum(read) == stack[0].nbytes * 10


def test_what_fails_in_one_piece_of_a_matrix_fails_for_all_who_wait(tmp_path, monkeypatch):
    written = Written(tmp_path)
    written.put("stack", floats("stack", (1, 64, 8)))
    save(written, {"model_type": "qwen3"})
    monkeypatch.setattr(checkpoint, "_PIECE_BYTES", 64)

    def read_into(file, name, start, data):
        if start >= 512:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(SafetensorsFile, "read_into", read_into)

    def fails(at):
        with pytest.raises(OSError, match="Input/output error"):
            source.read_columns("stack", 0, at, at + 1)

    with Checkpoint(tmp_path) as source, ThreadPoolExecutor(7) as pool:
        list(pool.map(fails, range(7)))


def test_memory_of_a_matrix_is_used_again_when_nobody_reads_it(tmp_path):
    written = Written(tmp_path)
    stack = floats("stack", (6, 50, 80)).astype(BF16)
    written.put("stack", stack)
    save(written, {"model_type": "qwen3"})
    with Checkpoint(tmp_path) as source:
        first = source.read_columns("stack", 0, 0, 40)
        rows = float_columns(source.read_columns("stack", 0, 40, 80))
        for matrix in (1, 2, 3):
            part = source.read_columns("stack", matrix, 0, 80)
            np.testing.assert_array_equal(part, stack[matrix])
            place = part.ctypes.data
            del part
        again = source.read_columns("stack", 4, 0, 80)
        assert again.ctypes.data == place
        # What somebody holds, in whatever form, stays what it is.
        np.testing.assert_array_equal(first, stack[0, :, :40])
        np.testing.assert_array_equal(values_of(rows), stack[0, :, 40:].T)
        view = again[3:5].T.view(np.uint16)
        del again, first, rows
        others = [source.read_columns("stack", matrix, 0, 80) for matrix in (1, 2, 3, 5)]
        np.testing.assert_array_equal(view.T, stack[4, 3:5].view(np.uint16))
        assert len({part.ctypes.data for part in others} | {place}) == 5


def test_columns_that_could_not_be_read_are_read_again(tmp_path, monkeypatch):
    written = Written(tmp_path)
    stack = floats("stack", (1, 5, 8))
    written.put("stack", stack)
    save(written, {"model_type": "qwen3"})
    with Checkpoint(tmp_path) as source:
        with monkeypatch.context() as patched:
            patched.setattr(SafetensorsFile, "read_into", Mock(side_effect=OSError("broken")))
            with pytest.raises(OSError, match="broken"):
                source.read_columns("stack", 0, 0, 4)
        np.testing.assert_array_equal(source.read_columns("stack", 0, 4, 8), stack[0, :, 4:])


def test_many_threads_may_read(tmp_path):
    written = qwen35(tmp_path)
    with Checkpoint(tmp_path) as source, ThreadPoolExecutor(8) as pool:
        names = list(source.names) * 4
        for name, array in zip(names, pool.map(source.read, names), strict=True):
            np.testing.assert_array_equal(array, written.stored[name])


def test_shard_that_shrinks_while_read_is_a_format_error(tmp_path):
    qwen3(tmp_path)
    with Checkpoint(tmp_path) as source:
        source.info("lm_head.weight")
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(FormatError, match="shortened while it was read"):
            source.read("lm_head.weight")


def test_an_index_is_no_checkpoint_and_its_folder_is_asked_for(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {}}')
    with pytest.raises(FormatError, match=r"index\.json: no weights but JSON: name the folder"):
        Checkpoint(path)


def test_a_missing_shard_is_a_fault_of_the_index_wherever_it_is_looked_for(tmp_path):
    qwen35(tmp_path)
    index = json.loads((tmp_path / PLAIN_INDEX).read_text())
    index["weight_map"]["ghost"] = "CON.safetensors"
    (tmp_path / PLAIN_INDEX).write_text(json.dumps(index))
    for use in (
        lambda: binq.quantize_checkpoint(tmp_path, tmp_path / "t"),
        lambda: binq.dequantize_checkpoint(tmp_path, tmp_path / "t"),
        lambda: binq.load(tmp_path),
        lambda: inspect(tmp_path),
    ):
        with pytest.raises(FormatError, match=r"CON\.safetensors: there is no such file"):
            use()
    assert any("CON.safetensors" in problem for problem in verify(tmp_path))
