"""Work that threads do ahead of who takes its results, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from binq.convert.plan import lanes

T = TypeVar("T")


def done_ahead(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yields what each task returns, in order, while threads do the next ones.

    Of results that nobody has taken yet there are at most as many as threads, and one. What a task
    raises is raised in its place; tasks behind it that have begun are waited for.
    """
    count = lanes()
    running: deque[Future[T]] = deque()
    threads = ThreadPoolExecutor(count)
    try:
        for task in tasks:
            running.append(threads.submit(task))
            if len(running) > count:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
