"""Threads, and what a process tells of its memory."""

import threading
import time
from itertools import repeat

import psutil
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from rbe_cli.jobs.peak_memory import peak_rss_bytes
from rbe_cli.jobs.workers import workers
from rbe_cli.runtime.cpus import default_threads


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads():
    """How many threads each BLAS has, before and after: two, where tests usually have one."""
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        assert set(before) == {2}
        yield before


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_tasks_run_at_once_as_there_are_threads(threads):
    together = threading.Barrier(threads, timeout=10)
    with workers(threads) as pool:
        assert pool.jobs == threads
        assert sorted(pool.map(lambda _: together.wait(), range(threads))) == list(range(threads))
        names = set(pool.map(lambda _: threading.current_thread().name, range(50)))
    assert len(names) <= threads


def test_the_default_is_a_thread_a_core():
    together = threading.Barrier(default_threads(), timeout=10)
    with workers(None) as pool:
        for _ in pool.map(lambda _: together.wait(), range(default_threads())):
            pass
    assert not together.broken


def test_blas_keeps_to_one_thread_meanwhile(two_blas_threads):
    with workers(2) as pool:
        assert set(blas_threads()) == {1}
        assert set(pool.executor.submit(blas_threads).result(10)) == {1}
    assert blas_threads() == two_blas_threads


@pytest.mark.parametrize("ahead", [1, 2])
def test_results_come_in_the_order_of_the_arguments_which_are_taken_as_needed(ahead):
    taken = []

    def numbers():
        for number in range(100):
            taken.append(number)
            yield number

    def later_is_faster(number, power):
        time.sleep((100 - number) * 1e-5)
        return number**power

    with workers(3) as pool:
        results = pool.map(later_is_faster, numbers(), repeat(2), ahead=ahead)
        assert taken == []
        for number, result in enumerate(results):
            assert result == number**2
            assert len(taken) <= number + ahead * 3 + 1
    assert len(taken) == 100


def test_leaving_finishes_what_was_submitted():
    done = []
    with workers(1) as pool:
        for number in range(5):
            pool.executor.submit(done.append, number)
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_cancels_what_waits(error, two_blas_threads):
    started, release, done = threading.Event(), threading.Event(), []

    def running():
        started.set()
        release.wait(10)

    def fail_while_one_runs():
        with workers(1) as pool:
            pool.executor.submit(running)
            waiting.append(pool.executor.submit(done.append, 1))
            started.wait(10)
            raise error

    waiting = []
    beginning = time.monotonic()
    with pytest.raises(error):
        fail_while_one_runs()
    assert time.monotonic() - beginning < 5  # it does not wait for what runs
    release.set()
    assert waiting[0].cancelled()
    assert done == []
    assert blas_threads() == two_blas_threads


def test_the_peak_of_memory_is_no_less_than_is_held():
    held = psutil.Process().memory_info().rss
    peak = peak_rss_bytes()
    assert 0.9 * held <= peak < psutil.virtual_memory().total
    assert peak_rss_bytes() >= peak
