"""Locks: the living keep others out, the dead do not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.folders import names

from binq.convert.lock import WHOLE, Lock
from binq.files import holding
from binq.files.replacing import create_file, link_new

try:
    import fcntl
    import resource
except ImportError:
    fcntl = resource = None


def refuse(*_):
    raise PermissionError(1, "not here")


def test_a_living_process_keeps_others_out(tmp_path):
    whole, part = "binq-conversion.lock", "binq-conversion-1-of-2.lock"
    host = Lock(tmp_path).text.partition(" ")[0]
    with Lock(tmp_path):
        # Another conversion of this process, and its parts.
        for other in (None, (1, 2)):
            with pytest.raises(FileExistsError, match="works there"), Lock(tmp_path, other):
                pass
        assert names(tmp_path) == [whole]
    (tmp_path / whole).write_text(f"{host} {os.getppid()}")
    for other in (None, (1, 2)):
        with pytest.raises(FileExistsError, match="works there"), Lock(tmp_path, other):
            pass
    (tmp_path / whole).unlink()
    (tmp_path / part).write_text(f"{host} {os.getppid()}")
    with pytest.raises(FileExistsError, match="works there"), Lock(tmp_path):
        pass
    with Lock(tmp_path, (2, 2)), Lock(tmp_path, (1, 2)):
        assert names(tmp_path) == [part, "binq-conversion-2-of-2.lock"]
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="needs to ask for a process")
def test_a_dead_process_keeps_nobody_out(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = Lock(tmp_path)
    host = lock.text.partition(" ")[0]
    # A process that is gone, and one of another container with the number of this one.
    for pid in (gone.pid, os.getpid()):
        lock.path.write_text(f"{host} {pid}")
        with lock:
            assert lock.path.read_text() == f"{host} {os.getpid()}"
        assert names(tmp_path) == []


def test_a_lock_without_a_name_is_told_of(tmp_path):
    """As a kill leaves it on a file system without links."""
    (tmp_path / "binq-conversion.lock").touch()
    with pytest.raises(FileExistsError, match=r"process \? on \? works there; if it is dead"):
        Lock(tmp_path).__enter__()


def test_a_file_system_without_links_will_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse)
    with Lock(tmp_path):
        assert names(tmp_path) == ["binq-conversion.lock"]
        with pytest.raises(FileExistsError, match="works there"), Lock(tmp_path):
            pass
    assert names(tmp_path) == []


def test_a_process_of_another_user_is_alive(tmp_path, monkeypatch):
    lock = Lock(tmp_path)
    lock.path.write_text(f"{lock.text.partition(' ')[0]} 12345")
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(FileExistsError, match="works there"), lock:
        pass


HOLD = """
import sys, pathlib
from binq.convert.lock import WHOLE, Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.text = sys.argv[2]
with lock:
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(fcntl is None, reason="needs locks of the system")
def test_a_process_of_another_container_with_the_same_name_and_number_is_alive(tmp_path):
    """Process 1 of one host name, twice."""
    mine = Lock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), mine.text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        for part in (None, (1, 2)):
            with pytest.raises(FileExistsError, match="works there"), Lock(tmp_path, part):
                pass
        other.kill()
        other.wait()
        # Killed: what it left counts for nothing.
        assert names(tmp_path) == ["binq-conversion.lock"]
        with mine:
            assert mine.dead == os.getpid()
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_that_outlives_its_parent_does_not_look_like_it(tmp_path):
    lock = Lock(tmp_path)
    with lock:
        read, write = os.pipe()
        ready, begun = os.pipe()
        child = os.fork()
        if not child:
            os.write(begun, b"1")
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os.read(ready, 1)
        assert holding.is_held(lock.path) == (fcntl is not None)
        holding.release(lock._file)
        lock._file = None
        assert not holding.is_held(lock.path)
        os.close(write)
        os.waitpid(child, 0)


def test_another_lock_that_came_between_is_left_alone(tmp_path):
    lock = Lock(tmp_path)
    host = lock.text.partition(" ")[0]
    lock.path.write_text(f"{host} {os.getppid()}")
    lock._take_away(f"{host} 1")
    assert lock.path.read_text() == f"{host} {os.getppid()}"
    assert lock.dead is None
    lock._take_away(f"{host} {os.getppid()}")
    assert names(tmp_path) == []
    assert lock.dead == os.getppid()


@pytest.mark.skipif(fcntl is None, reason="needs locks of the system")
def test_of_those_who_find_a_dead_lock_one_takes_it_away(tmp_path):
    lock = Lock(tmp_path)
    lock.path.write_text(f"{lock.text.partition(' ')[0]} 12345")
    with lock.path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock._take_away(lock.path.read_text())
        assert names(tmp_path) == [lock.path.name]
    lock._take_away(lock.path.read_text())
    assert names(tmp_path) == []


def test_a_lock_that_another_process_took_over_is_not_removed(tmp_path):
    path = tmp_path / "binq-conversion-1-of-2.lock"
    with Lock(tmp_path, (1, 2)):
        (tmp_path / "new").write_text("elsewhere 7")
        (tmp_path / "new").replace(path)
    assert path.read_text() == "elsewhere 7"


def test_a_thread_does_not_remove_the_lock_of_the_next(tmp_path):
    """The first has given the folder its final name when the second makes one anew."""
    folder = tmp_path / "target.partial"
    folder.mkdir()
    first, second = Lock(folder), Lock(folder)
    with first:
        folder.rename(tmp_path / "target")
        folder.mkdir()
        second.__enter__()
    assert names(folder) == [second.path.name]
    with pytest.raises(FileExistsError, match="works there"), Lock(folder):
        pass
    second.__exit__()
    assert names(folder) == []


def open_files(folder):
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [text for link in links if (text := str(link.readlink())).startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_no_deleted_file_is_kept_open(tmp_path):
    """Network file systems would keep its name in the folder, where nobody can delete it."""
    with Lock(tmp_path):
        assert open_files(tmp_path) == [str(tmp_path / "binq-conversion.lock")]
    assert open_files(tmp_path) == []


def test_a_lock_that_may_not_be_read_is_one_of_the_living(tmp_path, monkeypatch):
    Lock(tmp_path).path.write_text("elsewhere 7")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(FileExistsError, match=r"process \? on \? works there"), Lock(tmp_path):
        pass


@pytest.mark.skipif(resource is None, reason="needs a limit of file sizes")
@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_no_file_behind(tmp_path, monkeypatch, links):
    """Else an empty lock or manifest would keep everybody out. Files may have no byte here."""
    path = tmp_path / "binq-conversion.json"
    source = tmp_path / "source"
    source.write_text("{}")
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            create_file(path, "{}") if links else link_new(source, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert names(tmp_path) == ["source"]


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe\0garbage", b"", b"\0" * 20, b"HOST 0", b"HOST " + b"9" * 5000, b"HOST -1"],
)
def test_a_damaged_lock_is_named_and_keeps_others_out(tmp_path, content):
    """Nobody can know whose it was: a kill may have left it, where there are no links."""
    host = socket.gethostname().encode()
    (tmp_path / WHOLE).write_bytes(content.replace(b"HOST", host))
    with (
        pytest.raises(FileExistsError, match=r"process \? on \? works there; .* delete .*\.lock"),
        Lock(tmp_path),
    ):
        pass
