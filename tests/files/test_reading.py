"""Reading at places: from many threads at once, on every system, and from regular files alone."""

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from checkpoints.fixtures import gguf_file

import binq
from binq.errors import FormatError
from binq.files import reading
from binq.files.checkpoint import Checkpoint
from binq.files.reading import ReadableFile

THREADS = 8
ROWS = 500


def rows():
    return np.arange(ROWS * 4096, dtype=np.float32).reshape(ROWS, 4096)


def st_file(folder):
    binq.save_file({"w": rows()}, folder / "m.safetensors")
    return folder / "m.safetensors"


def gguf(folder):
    path = folder / "m.gguf"
    metadata = {"general.architecture": "qwen3"}
    path.write_bytes(gguf_file(metadata, {"w": (0, rows().shape, rows().tobytes())}))
    return path


@pytest.mark.parametrize("make", [st_file, gguf])
@pytest.mark.parametrize("has_preadv", [True, False])
def test_threads_do_not_move_each_other(tmp_path, monkeypatch, make, has_preadv):
    """Windows has no preadv: one position is shared by all that read the file."""
    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
    elif not hasattr(os, "preadv"):
        pytest.skip("there is none here")
    path = make(tmp_path)
    wanted = rows()
    with Checkpoint(path) as source, ThreadPoolExecutor(THREADS) as pool:

        def wrong(number):
            row = number * 7 % ROWS
            return not np.array_equal(
                source.read_span("w", row, row + 1, (4096,)), wanted[row:][:1]
            )

        assert sum(pool.map(wrong, range(8 * ROWS))) == 0


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match=r"pipe\.safetensors: a pipe, not a regular file"):
        binq.load_file(pipe)
    with pytest.raises(FormatError, match="a pipe"):
        Checkpoint(pipe)
    with pytest.raises(FormatError, match="/dev/zero: a device"):
        binq.load_file("/dev/zero")
    with pytest.raises(IsADirectoryError, match="a folder, not a file"):
        ReadableFile(tmp_path)
    path = tmp_path / "s.safetensors"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))
        with pytest.raises(FormatError, match="a socket"):
            binq.load_file(path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_pipe_among_the_files_of_a_folder(tmp_path, name):
    st_file(tmp_path).rename(tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / name)
    with pytest.raises(FormatError, match=rf"{name}: a pipe"):
        Checkpoint(tmp_path)


def test_a_link_is_what_it_leads_to(tmp_path):
    path = st_file(tmp_path)
    Path(tmp_path / "link.safetensors").symlink_to(path)
    np.testing.assert_array_equal(binq.load_file(tmp_path / "link.safetensors")["w"], rows())


def in_time(work):
    """Runs work in a thread of its own and says whether it came to an end."""
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(20)
    return done


def read_whole(path):
    file = ReadableFile(path)
    try:
        return file.read(0, 8, "x")
    finally:
        file.close()


def test_the_garbage_collector_may_close_files_while_others_are_opened(tmp_path, monkeypatch):
    """Its work comes in the midst of the pool's own, in the thread that holds the lock."""
    paths = [tmp_path / f"{number}" for number in range(6)]
    for path in paths:
        path.write_bytes(b"12345678")
    monkeypatch.setattr(reading, "_MOST_OPEN", 2)
    unused = [ReadableFile(path) for path in paths[:3]]
    opened = ReadableFile.open

    class Closing:
        """A file during whose end another one is closed."""

        def __init__(self, file):
            self.file = file

        def fileno(self):
            return self.file.fileno()

        def close(self):
            if unused:
                unused.pop().close()
            self.file.close()

    def opened_while_another_is_closed(self):
        if unused:
            unused.pop().close()
        return Closing(opened(self))

    monkeypatch.setattr(ReadableFile, "open", opened_while_another_is_closed)
    read = [in_time(lambda path=path: read_whole(path)) for path in paths[3:]]
    assert read == [[b"12345678"]] * 3
    assert unused == []
