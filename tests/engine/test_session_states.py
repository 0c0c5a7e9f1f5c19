"""A session after a fork, an interruption or an error in any state of a call."""

import os
import signal
import threading
from functools import partial

import numpy as np
import pytest
from deadlines import SECONDS
from small_models import as_panels, random_tensors, small_config

from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.runner import Runner
from rbe_cli.engine.session import Session
from rbe_cli.runtime.buffer_pool import BufferPool
from rbe_cli.runtime.fork_lock import ForkLock
from rbe_cli.runtime.thread_team import get_team

TOKENS = np.arange(40) * 5 % 211


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def start(request):
    """A function that starts a session of so many threads over one model."""
    model = LoadedModel(small_config(), as_panels(random_tensors(small_config()), 30)[0])
    return partial(Session, model, 2, team=get_team(request.param))


def in_child(task):
    """Fork, and return whether `task` is true in the child, which may not hang."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        code = 1
        try:
            code = 0 if task() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0


forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def forking(test):
    for mark in forks:
        test = mark(test)
    return test


@forking
def test_a_fork_while_another_thread_is_inside_a_session(start):
    session, stop, begun = start(), threading.Event(), threading.Event()
    expected = start().prefill(1, TOKENS)

    def use():
        while not stop.is_set():
            session.reset(0)
            session.prefill(0, TOKENS)
            begun.set()

    thread = threading.Thread(target=use)
    thread.start()
    try:
        assert begun.wait(SECONDS)
        for _ in range(3):
            assert in_child(lambda: np.array_equal(session.prefill(1, TOKENS), expected))
            assert in_child(lambda: session.length(0) in (0, len(TOKENS)))  # nothing half done
    finally:
        stop.set()
        thread.join(SECONDS)
    assert np.array_equal(session.prefill(1, TOKENS), expected)


@forking
def test_a_fork_waits_for_the_lock_and_frees_it_in_both_processes():
    lock, pool = ForkLock(), BufferPool()
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock, pool._lock:
            held.set()
            release.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(SECONDS)
    threading.Timer(0.2, release.set).start()

    def use():
        with lock, pool.borrow((3,)) as array:
            return release.is_set() and array.shape == (3,)

    assert in_child(use)
    assert use()
    thread.join(SECONDS)


@forking
def test_a_thread_may_fork_inside_a_call():
    lock = ForkLock()
    with lock:
        assert in_child(lambda: lock.__enter__() is lock)
    done = []
    thread = threading.Thread(target=lambda: done.append(lock.__enter__()))
    thread.start()
    thread.join(SECONDS)
    assert done == [lock]


PLACES = [(PagedCache, "reserve"), (Runner, "run"), (PagedCache, "advance")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), PLACES, ids=[name for _, name in PLACES])
def test_an_error_in_any_state_leaves_the_session_usable(start, owner, name, after, error):
    session, alone = start(), start()
    others = session.prefill(1, TOKENS[:20])
    session.prefill(0, TOKENS[:7])
    alone.prefill(0, TOKENS[:7])
    original = getattr(owner, name)

    def failing(*arguments, **options):
        if after:
            original(*arguments, **options)
        raise error

    for call in (
        lambda: session.prefill(0, TOKENS[7:12]),
        lambda: session.extend(0, TOKENS[7:12]),
        lambda: session.decode([0], TOKENS[7:8]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, failing)
            with pytest.raises(error):
                call()
        is_advanced = name == "advance" and after
        assert (session.length(0) > 7) == is_advanced
        session.truncate(0, 7)
    expected = alone.extend(0, TOKENS[7:12])
    assert np.array_equal(session.extend(0, TOKENS[7:12]), expected)
    session.reset(1)
    assert np.array_equal(session.prefill(1, TOKENS[:20]), others)
