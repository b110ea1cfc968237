"""save_file and load_file: what goes in comes out, mapped, and nothing half-written stays."""

import errno
import hashlib
import json
import os
import pickle
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from strategies import LAYOUTS, quantized_arrays, random_quantized, relay

import binq
from binq.files import SafetensorsFile
from binq.files.replacing import temporary_path
from binq.files.writer import AppendWriter, header_room

reuse_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)
DTYPES = (
    *(np.bool_, np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.float16, np.float32, np.float64, np.complex64, ml_dtypes.bfloat16),
    *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu),
)


@reuse_folder
@given(q=quantized_arrays(), other=quantized_arrays())
def test_packed_weights_come_back_as_they_were(tmp_path, q, other):
    path = tmp_path / "m.safetensors"
    bias = np.arange(5, dtype=np.float32)
    binq.save_file({"a.weight": q, "b": other, "a.bias": bias}, path, {"note": "é"})
    loaded = binq.load_file(path)
    assert list(loaded) == ["a.bias", "a.weight", "b"]
    assert loaded["a.weight"] == q
    assert loaded["b"] == other
    np.testing.assert_array_equal(loaded["a.bias"], bias)
    with SafetensorsFile(path) as file:
        assert file.metadata["note"] == "é"


def known(values):
    """Returns whether the installed safetensors has this type: complex64 came after 0.5."""
    try:
        safetensors.numpy.save({"x": values})
    except safetensors.SafetensorError:
        return False
    return True


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_arrays_of_every_dtype_and_layout_come_back_equal(tmp_path, dtype, layout):
    values = np.arange(42).reshape(6, 7).astype(np.float32).astype(dtype)
    array = relay(values, layout)
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": array}, path)
    loaded = binq.load_file(path)["x"]
    assert loaded.dtype == np.dtype(dtype)
    assert loaded.tobytes() == values.tobytes()
    if np.dtype(dtype).kind != "V" and "float8" not in np.dtype(dtype).name and known(values):
        np.testing.assert_array_equal(safetensors.numpy.load_file(path)["x"], values)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (0, 5, 2)])
def test_scalars_and_empty_arrays_keep_their_shape(tmp_path, shape):
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": np.ones(shape, np.float16)}, path)
    loaded = binq.load_file(path)["x"]
    assert loaded.shape == shape
    np.testing.assert_array_equal(loaded, np.ones(shape))


def test_a_file_may_hold_nothing(tmp_path):
    path = tmp_path / "m.safetensors"
    binq.save_file({}, path)
    assert binq.load_file(path) == {}


def test_loading_maps_the_file_and_copies_nothing(tmp_path):
    path = tmp_path / "m.safetensors"
    q = random_quantized(np.random.default_rng(0), "int4", (256, 512))
    binq.save_file({"q": q, "x": np.arange(1000)}, path)
    loaded = binq.load_file(path)
    packed, scales, x = loaded["q"].packed, loaded["q"].scales, loaded["x"]
    for array in (packed, scales, x):
        assert not array.flags.owndata
        assert not array.flags.writeable
        assert array.flags.aligned
    start = packed.__array_interface__["data"][0]
    with SafetensorsFile(path) as file:
        infos = file.tensors
        distance = infos["x"].start - infos["q.packed"].start
    assert x.__array_interface__["data"][0] - start == distance
    y = np.ones((2, 512), np.float32)
    np.testing.assert_array_equal(y @ loaded["q"].T, y @ q.T)


def test_loaded_weights_pickle(tmp_path):
    path = tmp_path / "m.safetensors"
    q = random_quantized(np.random.default_rng(0), "binary", (40, 100), symmetric=False)
    binq.save_file({"q": q}, path)
    loaded = binq.load_file(path)["q"]
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(loaded, protocol)) == q


def test_saving_over_the_file_that_is_mapped_keeps_the_mapped_values(tmp_path):
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": np.arange(10000)}, path)
    loaded = binq.load_file(path)
    binq.save_file({"x": loaded["x"], "y": np.zeros(3)}, path)
    np.testing.assert_array_equal(loaded["x"], np.arange(10000))
    np.testing.assert_array_equal(binq.load_file(path)["x"], np.arange(10000))


def test_every_stored_tensor_has_its_sha256(tmp_path):
    path = tmp_path / "m.safetensors"
    q = random_quantized(np.random.default_rng(0), "int4", (40, 100), symmetric=False)
    binq.save_file({"q": q, "x": np.arange(7)}, path)
    with SafetensorsFile(path) as file:
        hashes = json.loads(file.metadata["binq"])["sha256"]
        assert set(hashes) == {"q.packed", "q.scales", "q.zero_points", "x"}
        for name, digest in hashes.items():
            assert hashlib.sha256(file.read(name).tobytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"x": [1, 2]}, None, TypeError, "tensor 'x' must be a numpy array"),
        ({"x": np.array(["a"])}, None, TypeError, "tensor 'x': a safetensors file cannot hold"),
        ({"x": np.array([None])}, None, TypeError, "tensor 'x': a safetensors file cannot hold"),
        ({3: np.ones(1)}, None, TypeError, "tensor names must be strings, got 3"),
        ({}, {"a": 1}, TypeError, "metadata must map strings to strings"),
        ({}, {"binq": "x"}, ValueError, "must not have the key 'binq'"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_no_file(
    tmp_path, tensors, metadata, error, message
):
    with pytest.raises(error, match=message):
        binq.save_file(tensors, tmp_path / "m.safetensors", metadata)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [1, -1])
def test_names_that_collide_are_refused(tmp_path, order):
    q = random_quantized(np.random.default_rng(0), "int4", (4, 8))
    tensors = dict([("a", q), ("a.packed", np.zeros(3))][::order])
    with pytest.raises(ValueError, match=r"two tensors would be stored as 'a\.packed'"):
        binq.save_file(tensors, tmp_path / "m.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    binq.save_file({"x": np.ones(3)}, tmp_path / "m.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        binq.save_file({"x": np.ones(3)}, tmp_path / "nowhere" / "m.safetensors")


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": np.arange(3)}, path)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        binq.save_file({"x": np.arange(4)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert len(binq.load_file(path)["x"]) == 3


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced elsewhere")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch, code):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", only_files)
    path = tmp_path / "m.safetensors"
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            binq.save_file({"x": np.arange(3)}, path)
        assert caught.value.filename == str(tmp_path)
    else:
        binq.save_file({"x": np.arange(3)}, path)
    assert binq.load_file(path)["x"].tolist() == [0, 1, 2]


@pytest.mark.skipif(os.name != "posix", reason="needs file size limits")
def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": np.arange(3)}, path)
    code = f"""
        import resource, signal
        import numpy as np, binq
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            binq.save_file({{"x": np.zeros(1_000_000)}}, {str(path)!r})
        except Exception as error:
            print(isinstance(error, OSError), error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    # An OSError that names the file and the byte, not the temporary one that is gone.
    assert done.stdout.startswith("True"), done.stderr
    assert f"'{path} (writing at byte " in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert len(binq.load_file(path)["x"]) == 3


@pytest.mark.parametrize("seed", range(3))
@given(cut=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_a_truncated_file_is_a_format_error(tmp_path, seed, cut):
    path = tmp_path / "m.safetensors"
    q = random_quantized(np.random.default_rng(seed), "ternary", (40, 100))
    binq.save_file({"q": q}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(binq.FormatError, match=r"m\.safetensors"):
        binq.load_file(path)


@pytest.mark.parametrize("name", ["__metadata__", "a\0b", "a\ud800"])
def test_names_that_no_reader_takes_are_refused(tmp_path, name):
    path = tmp_path / "m.safetensors"
    binq.save_file({"a": np.ones(3)}, path)
    for tensor in (np.ones(3), binq.quantize(np.ones((4, 8)), "int4")):
        if name != "__metadata__" or isinstance(tensor, np.ndarray):
            with pytest.raises(ValueError, match="tensor names must be valid Unicode"):
                binq.save_file({name: tensor}, path)
    assert list(binq.load_file(path)) == ["a"]


def test_what_a_file_would_lose_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="tensor 'a': shape has 9 axes, more than 8"):
        binq.save_file({"a": np.ones((1,) * 9)}, path)
    with pytest.raises(ValueError, match=r"tensor 'a\.packed': shape has 9 axes, more than 8"):
        binq.save_file({"a": binq.quantize(np.ones((1,) * 7), "int4")}, path)
    with pytest.raises(TypeError, match="tensor 'a' must be a plain array, got a masked one"):
        binq.save_file({"a": np.ma.ones(3)}, path)
    with pytest.raises(ValueError, match="metadata must be valid Unicode, got 'k'"):
        binq.save_file({"a": np.ones(3)}, path, {"k": "\ud800"})
    with pytest.raises(TypeError, match="metadata must map strings to strings, got str"):
        binq.save_file({"a": np.ones(3)}, path, "made here")
    with pytest.raises(TypeError, match="tensors must map names to arrays, got list"):
        binq.save_file([np.ones(3)], path)
    assert not path.exists()


def test_a_link_stays_a_link(tmp_path):
    binq.save_file({"a": np.zeros(3)}, tmp_path / "m.safetensors")
    link = tmp_path / "link.safetensors"
    try:
        link.symlink_to("m.safetensors")
    except OSError:
        pytest.skip("no symbolic links here")
    binq.save_file({"b": np.zeros(3)}, link)
    assert link.is_symlink()
    assert list(binq.load_file(tmp_path / "m.safetensors")) == ["b"]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="a folder, not a file") as caught:
        binq.save_file({}, tmp_path)
    assert caught.value.filename == str(tmp_path)
    if os.name == "posix":
        with pytest.raises(IsADirectoryError, match="a folder, not a file"):
            binq.load_file(tmp_path)


def raw_file(path, header, nbytes):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(nbytes)))
    return path


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("F4", [2, 8], (2, 4)),
        ("F4", [2, 3], (3,)),
        ("F4", [2], (1,)),
        ("F4", [0, 3], (0,)),
        ("F6_E2M3", [3, 4], (3, 3)),
        ("F6_E3M2", [4, 3], (9,)),
    ],
)
def test_types_that_numpy_lacks_come_as_bytes_and_hide_nothing(tmp_path, dtype, shape, expected):
    nbytes = int(np.prod(expected))
    header = {
        "a": {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [nbytes, nbytes + 4]},
    }
    tensors = binq.load_file(raw_file(tmp_path / "m.safetensors", header, nbytes + 4))
    np.testing.assert_array_equal(tensors["a"], np.arange(nbytes, dtype=np.uint8).reshape(expected))
    np.testing.assert_array_equal(tensors["b"], np.arange(nbytes, nbytes + 4))


@pytest.mark.parametrize("dtype", ["float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_float8_without_negative_zero_is_kept(tmp_path, dtype):
    array = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, dtype))
    binq.save_file({"a": array}, tmp_path / "m.safetensors")
    read = binq.load_file(tmp_path / "m.safetensors")["a"]
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read.view(np.uint8), array.view(np.uint8))


def test_headers_that_other_readers_take_are_read(tmp_path):
    """MLX writes null where there are no metadata; further keys say nothing to anybody."""
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4], "note": 1}
    path = raw_file(tmp_path / "m.safetensors", {"__metadata__": None, "a": entry}, 4)
    assert binq.load_file(path)["a"].tolist() == [0, 1, 2, 3]


def test_many_tensors_take_time_in_proportion(tmp_path):
    """Experts one by one are tens of thousands: nothing may look at all that came before."""
    names = [f"t{i}" for i in range(30_000)]
    writer = AppendWriter(tmp_path / "m.safetensors", header_room(names))
    start = time.process_time()
    for i, name in enumerate(names):
        mark = writer.mark()
        for value in (i + 1, i):  # the second try is the one that stays
            writer.rewind(mark)
            writer.begin(name, "U8", (1,))
            writer.write(np.array([value % 256], np.uint8))
    writer.close({})
    assert time.process_time() - start < 30  # about 1; where each looks at all others, minutes
    loaded = binq.load_file(tmp_path / "m.safetensors")
    assert len(loaded) == len(names)
    assert all(loaded[name][0] == i % 256 for i, name in enumerate(names))


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_what_killed_saves_left_goes_with_the_next(tmp_path):
    """Nobody else would ever remove it: its name is of no further use."""
    path = tmp_path / "m.safetensors"
    binq.save_file({"x": np.zeros(3)}, path)
    code = f"""
        import os, signal
        import numpy as np, binq
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        binq.save_file({{"x": np.ones(1000)}}, {str(path)!r})
    """
    for _ in range(3):
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=60)
    # Each took away what the one before it left.
    assert len(list(tmp_path.iterdir())) == 2
    other = tmp_path / ".other.safetensors.1-0123456789ab.tmp"
    mine = temporary_path(path)  # of a process that is alive
    for stray in (other, mine):
        stray.touch()
    np.testing.assert_array_equal(binq.load_file(path)["x"], np.zeros(3))
    binq.save_file({"x": np.ones(3)}, path)
    assert {p.name for p in tmp_path.iterdir()} == {"m.safetensors", other.name, mine.name}


def large_pieces(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, 1 << 20, np.uint8) for _ in range(count)]


def test_pieces_written_alongside_keep_their_order_and_their_hashes(tmp_path):
    path = tmp_path / "m.safetensors"
    writer = AppendWriter(path, header_room(["a", "b", "c"]))
    mark = 0
    for name, pieces in {"a": large_pieces(7), "b": large_pieces(5), "c": large_pieces(3)}.items():
        if name == "b":
            mark = writer.mark()
        writer.begin(name, "U8", (sum(len(p) for p in pieces) + 3,))
        for piece in (*pieces, np.array([1, 2, 3], np.uint8)):
            writer.write(piece)
        if name == "b":
            writer.rewind(mark)
    writer.close({"binq": "{}"})
    expected = {
        "a": np.concatenate([*large_pieces(7), [1, 2, 3]]),
        "c": np.concatenate([*large_pieces(3), [1, 2, 3]]),
    }
    with SafetensorsFile(path) as file:
        assert set(file) == {"a", "c"}
        hashes = json.loads(file.metadata["binq"])["sha256"]
        for name, array in expected.items():
            assert np.array_equal(file.read(name), array)
            assert hashes[name] == hashlib.sha256(array.astype(np.uint8).tobytes()).hexdigest()


def test_without_more_threads_pieces_are_written_by_their_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
    pieces = large_pieces(5)
    binq.save_file({str(i): piece for i, piece in enumerate(pieces)}, tmp_path / "m.safetensors")
    loaded = binq.load_file(tmp_path / "m.safetensors")
    assert all(np.array_equal(loaded[str(i)], piece) for i, piece in enumerate(pieces))


def test_arrays_are_saved_while_python_ends(tmp_path):
    code = """
        import atexit, sys, binq, numpy as np
        atexit.register(lambda: binq.save_file({"a": np.ones(1 << 21)}, sys.argv[1]))
    """
    path = tmp_path / "m.safetensors"
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(path)], check=True)
    assert binq.load_file(path)["a"].all()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
@pytest.mark.parametrize("count", [1, 9])
def test_a_full_disk_is_told_though_another_thread_found_it(tmp_path, count):
    path = tmp_path / "m.safetensors"
    path.symlink_to("/dev/full")
    writer = AppendWriter(path, header_room(["a"]))
    writer.begin("a", "U8", (count << 20,))

    def write():
        for piece in large_pieces(count):
            writer.write(piece)
        writer.close({})

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert "writing at byte" in caught.value.filename
    writer.abandon()
