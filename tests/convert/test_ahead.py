"""Work ahead of who takes it: in order, not too far, and errors in their place."""

import threading
from functools import partial

import pytest

import binq
from binq.convert.ahead import done_ahead


@pytest.fixture(params=[1, 3])
def threads(request):
    before = binq.get_num_threads()
    binq.set_num_threads(request.param)
    yield request.param
    binq.set_num_threads(before)


def test_results_come_in_order(threads):
    assert list(done_ahead(partial(pow, n, 2) for n in range(50))) == [n * n for n in range(50)]
    assert list(done_ahead([])) == []


def test_tasks_begin_no_further_ahead_than_threads(threads):
    asked = []

    def tasks():
        for number in range(20):
            asked.append(number)
            yield lambda: None

    for taken, _ in enumerate(done_ahead(tasks()), 1):
        assert len(asked) <= taken + threads


def test_what_a_task_raises_is_raised_in_its_place(threads):
    def task(number):
        if number == 4:
            raise ValueError("the fourth")
        return number

    taken = []
    with pytest.raises(ValueError, match="the fourth"):
        taken.extend(done_ahead(partial(task, n) for n in range(20)))
    before = threading.active_count()
    results = done_ahead(partial(task, n) for n in range(20))
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert threading.active_count() == before


def test_no_thread_stays_where_nobody_takes_the_rest(threads):
    before = threading.active_count()
    results = done_ahead(partial(pow, n, 2) for n in range(50))
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
