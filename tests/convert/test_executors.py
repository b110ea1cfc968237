"""Shards run wherever an executor runs them, and the bytes are the same."""

import os
import shutil
import signal
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from checkpoints.folders import LAYER, SMALL, tree

import binq
from binq.convert.verify import verify

EXECUTORS = {
    "threads": lambda: ThreadPoolExecutor(3),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_any_executor_gives_the_same_bytes(source, tmp_path, kind):
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    with EXECUTORS[kind]() as executor:
        binq.quantize_checkpoint(source, tmp_path / "shared", executor=executor, **SMALL)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_a_failed_run_leaves_nothing_to_the_next_on_the_same_executor(source, tmp_path):
    """Tasks that were handed to a worker before the failure finish before anything else begins."""
    binq.quantize_checkpoint(source, tmp_path / "alone", "int4", **SMALL)
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    w = {name: np.array(w) for name, w in binq.load_file(broken / "model-1.safetensors").items()}
    w[f"{LAYER}.self_attn.q_proj.weight"][3, 3] = np.nan
    binq.save_file(w, broken / "model-1.safetensors")
    target = tmp_path / "target"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        for _ in range(3):
            with pytest.raises(binq.NonFiniteError):
                binq.quantize_checkpoint(
                    broken, target, "ternary", executor=executor, overwrite=True, **SMALL
                )
            binq.quantize_checkpoint(
                source, target, "int4", executor=executor, overwrite=True, **SMALL
            )
            assert tree(target) == tree(tmp_path / "alone")


class Slow(ThreadPoolExecutor):
    """Threads whose tasks take a while; the queue breaks at one of them."""

    def __init__(self, breaks_at):
        super().__init__(1)
        self.breaks_at = breaks_at
        self.begun, self.ended = [], []

    def submit(self, fn, /, *args, **kwargs):
        number = len(self.begun)
        if number == self.breaks_at:
            raise ConnectionError("the queue is gone")
        self.begun.append(number)

        def slow():
            time.sleep(0.2)
            self.ended.append(number)
            if self.breaks_at < 0 and number == 0:
                raise ConnectionError("a worker is gone")
            return fn(*args, **kwargs)

        return super().submit(slow)


@pytest.mark.parametrize("breaks_at", [-1, 2])
def test_when_the_error_comes_nobody_is_writing_any_more(source, tmp_path, breaks_at):
    """A task fails, or there is no third: those that run have ended, the others never begin."""
    executor = Slow(breaks_at)
    with pytest.raises(ConnectionError):
        binq.quantize_checkpoint(source, tmp_path / "target", executor=executor, **SMALL)
    ended = list(executor.ended)
    before = tree(tmp_path / "target.partial")
    executor.shutdown()
    assert executor.ended == ended
    assert len(ended) < len(executor.begun)
    assert tree(tmp_path / "target.partial") == before
    assert not list((tmp_path / "target.partial").glob("*.lock"))


def test_a_task_of_a_conversion_that_is_gone_writes_nothing(source, tmp_path):
    tasks = []

    class Late(Executor):
        def submit(self, fn, /, *args, **kwargs):
            tasks.append((fn, args))
            future = Future()
            future.set_exception(ConnectionError("the cluster is gone"))
            return future

    with pytest.raises(ConnectionError):
        binq.quantize_checkpoint(source, tmp_path / "target", executor=Late(), **SMALL)
    shutil.rmtree(tmp_path / "target.partial")
    binq.quantize_checkpoint(source, tmp_path / "target", "ternary", part=(1, 2), **SMALL)
    before = tree(tmp_path / "target.partial")
    for fn, args in tasks:
        with pytest.raises(FileNotFoundError, match=r"the conversion .* is gone"):
            fn(*args)
    assert tree(tmp_path / "target.partial") == before


def test_workers_may_have_another_working_folder(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=os.chdir, initargs=("/",)
    ) as executor:
        binq.quantize_checkpoint("source", "target", executor=executor, **SMALL)
    assert list(verify(tmp_path / "target", source)) == []


def test_a_dask_cluster_gives_the_same_bytes_though_a_worker_is_killed(source, tmp_path):
    distributed = pytest.importorskip("distributed")
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    with (
        warnings.catch_warnings(action="ignore"),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        timer = threading.Timer(0.02, os.kill, (victim, signal.SIGKILL))
        timer.start()
        executor = client.get_executor(pure=False, retries=3)
        binq.quantize_checkpoint(source, tmp_path / "shared", executor=executor, **SMALL)
        timer.join()
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


class Twice(Executor):
    """Runs every task twice, as a cluster that lost an answer does."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        fn(*args, **kwargs)
        future.set_result(fn(*args, **kwargs))
        return future


class Dying(Executor):
    """Loses its worker in the middle of each shard, and runs the task on another."""

    def submit(self, fn, /, src, items, shard, *args):
        future = Future()
        shard.with_name(f".{shard.name}.7-0123abcd.tmp").write_bytes(b"half a shard")
        future.set_result(fn(src, items, shard, *args))
        return future


def test_what_killed_workers_left_does_not_reach_the_target(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "alone", **SMALL)
    binq.quantize_checkpoint(source, tmp_path / "shared", executor=Dying(), **SMALL)
    assert tree(tmp_path / "shared") == tree(tmp_path / "alone")


def test_a_task_may_run_more_than_once(source, tmp_path):
    binq.quantize_checkpoint(source, tmp_path / "once", **SMALL)
    binq.quantize_checkpoint(source, tmp_path / "twice", executor=Twice(), **SMALL)
    assert tree(tmp_path / "once") == tree(tmp_path / "twice")
