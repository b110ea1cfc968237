"""Wrong files say what they are, and folders what they hold."""

import io
import pickle
import struct

import numpy as np
import pytest

import binq
from binq.files.checkpoint import Checkpoint
from binq.files.gguf import MAGIC
from binq.files.signs import what_it_is


def saved(save, *arguments, **arrays):
    buffer = io.BytesIO()
    save(buffer, *arguments, **arrays)
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"
FILES = {
    "git-lfs pointer": (POINTER, "a git-lfs pointer, not the file itself: run git lfs pull"),
    "HTML": (b"<!DOCTYPE html><html>restricted</html>", "a web page"),
    "html": (b"\n  <html lang=en>", "a web page"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "GGUF": (MAGIC + struct.pack("<IQQ", 3, 0, 0), "a GGUF file: binq.load and binq quantize"),
    "torch zip": (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(60), "saved by torch"),
    "npz": (saved(np.savez, a=np.zeros(3)), r"numpy arrays in a zip \(.npz\): np.load"),
    "npy": (saved(np.save, np.zeros(3)), r"a numpy array \(.npy\): np.load reads it"),
    "pickle": (pickle.dumps({"a": [1.0] * 9}, 4), "a Python pickle, perhaps saved by torch"),
    "old torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03", "a Python pickle"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "compressed with gzip"),
    "JSON": (b'{"model_type": "llama"}', "JSON text, not weights"),
    "text": (b"Invalid username or password.", "text, not weights: it begins with 'Invalid user"),
    "tar": (b"a/b".ljust(257, b"\0") + b"ustar\x0000" + bytes(255), "a tar archive"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_file_says_what_it_is(tmp_path, case):
    data, what = FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    readers = [binq.load_file]
    if case != "GGUF":  # which is told from safetensors by its first bytes, and read
        readers += [Checkpoint, lambda path: Checkpoint(path.parent)]
    for read in readers:
        with pytest.raises(binq.FormatError, match=f"not a safetensors file but .*{what}"):
            read(path)


@pytest.mark.parametrize("case", ["git-lfs pointer", "HTML", "torch zip"])
def test_a_wrong_gguf_file_says_what_it_is(tmp_path, case):
    data, what = FILES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(binq.FormatError, match=f"not a GGUF file but .*{what}"):
        Checkpoint(path)


def test_what_is_not_known_is_not_guessed():
    assert what_it_is(b"") == ""
    assert what_it_is(bytes(512)) == ""
    assert what_it_is(np.random.default_rng(0).bytes(512)) == ""
    assert what_it_is(struct.pack("<Q", 80) + b'{"a":{"dtype"') == ""


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["pytorch_model.bin"], r"pytorch_model.bin: saved by torch \(.bin, .pt, .pth\): load"),
        (["consolidated.safetensors"], "consolidated.safetensors: a safetensors file of another"),
        (["adapter_model.safetensors", "adapter_config.json"], "an adapter"),
        (["model-00001-of-00002.safetensors", "config.json"], "shards without their model.safe"),
        (["tf_model.h5"], "tf_model.h5: Keras weights"),
        (["flax_model.msgpack"], "Flax weights"),
        (
            [f"x-{n}.bin" for n in range(9)],
            "x-0.bin, x-1.bin, x-2.bin, x-3.bin, x-4.bin and 4 more",
        ),
        (["config.json", "a\nb"], r"it holds 'a\\nb', config.json"),
        ([], "the folder is empty"),
    ],
)
def test_a_folder_says_what_it_holds(tmp_path, names, what):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"{}" if name.endswith("json") else b"x")
    with pytest.raises(FileNotFoundError, match=f"not a checkpoint; .*{what}"):
        binq.quantize_checkpoint(folder, tmp_path / "out")
