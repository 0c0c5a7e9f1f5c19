"""Threads, and what a process tells of its memory."""

import threading
import time

import psutil
import pytest
from threadpoolctl import threadpool_info

from rbe_cli.kernels.cpus import default_threads
from rbe_cli.tasks.memory import peak_rss_bytes
from rbe_cli.tasks.workers import workers


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_tasks_run_at_once_as_there_are_threads(threads):
    together = threading.Barrier(threads, timeout=10)
    with workers(threads) as executor:
        assert sorted(executor.map(lambda _: together.wait(), range(threads))) == list(
            range(threads)
        )
        names = set(executor.map(lambda _: threading.current_thread().name, range(50)))
    assert len(names) <= threads


def test_the_default_is_a_thread_a_core():
    together = threading.Barrier(default_threads(), timeout=10)
    with workers(None) as executor:
        for _ in executor.map(lambda _: together.wait(), range(default_threads())):
            pass
    assert not together.broken


def test_blas_keeps_to_one_thread_meanwhile():
    before = blas_threads()
    with workers(2) as executor:
        assert blas_threads() == [1] * len(before)
        assert executor.submit(blas_threads).result() == [1] * len(before)
    assert blas_threads() == before
    assert before


def test_leaving_finishes_what_was_submitted():
    done = []
    with workers(1) as executor:
        for number in range(5):
            executor.submit(done.append, number)
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_cancels_what_waits(error):
    before = blas_threads()
    started, release, done = threading.Event(), threading.Event(), []

    def running():
        started.set()
        release.wait(10)

    def fail_while_one_runs():
        with workers(1) as executor:
            executor.submit(running)
            waiting.append(executor.submit(done.append, 1))
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
    assert blas_threads() == before


def test_the_peak_of_memory_is_no_less_than_is_held():
    held = psutil.Process().memory_info().rss
    peak = peak_rss_bytes()
    assert 0.9 * held <= peak < psutil.virtual_memory().total
    assert peak_rss_bytes() >= peak
