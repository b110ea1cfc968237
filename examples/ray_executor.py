"""Quantizes a checkpoint on a Ray cluster: a concurrent.futures.Executor over Ray tasks.

    python examples/ray_executor.py SRC DST      (needs ray; SRC and DST on a shared file system)

Dask needs no adapter: pass executor=client.get_executor(pure=False).
"""

import sys
from concurrent.futures import Executor, Future
from threading import Thread

import binq


class RayFuture(Future):
    """The result of a Ray task. Cancelling asks Ray to, and the task's thread hears of it."""

    def __init__(self, ray, reference) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.ray, self.reference = ray, reference

    def cancel(self) -> bool:
        self.ray.cancel(self.reference)
        return False


class RayExecutor(Executor):
    """Runs each call as a Ray task. Ray retries a task whose worker dies; a shard of binq is the
    same bytes however often it is written."""

    def __init__(self) -> None:
        import ray

        self.ray = ray
        ray.init(ignore_reinit_error=True)

    def submit(self, fn, /, *args, **kwargs) -> Future:
        reference = self.ray.remote(fn).options(max_retries=3).remote(*args, **kwargs)
        future = RayFuture(self.ray, reference)

        def wait() -> None:
            try:
                future.set_result(self.ray.get(reference))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=wait, daemon=True).start()
        return future


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with RayExecutor() as executor:
        print(binq.quantize_checkpoint(sys.argv[1], sys.argv[2], "int4", executor=executor))
