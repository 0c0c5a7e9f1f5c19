"""Threads that run compiled programs together: at once, after a fork, and after an interruption."""

import os
import signal
import sys
import time
from functools import partial
from subprocess import PIPE

import numpy as np
import pytest
from deadlines import SECONDS, run_together, started
from random_panels import random_matrix

from rbe_cli.errors import UsageError
from rbe_cli.kernels.linear.linear_call import matmul
from rbe_cli.runtime.cpus import affine_cpus
from rbe_cli.runtime.thread_team import get_team

needs_two_cpus = pytest.mark.skipif(affine_cpus() < 2, reason="a team needs two CPUs")


@pytest.fixture(scope="module")
def product():
    """A call of a team's threads, and what it returns."""
    rng = np.random.default_rng(0)
    matrix = random_matrix(rng, 200, 2000, "int8")
    x, bias = rng.standard_normal((3, 200), np.float32), np.zeros(2000, np.float32)

    def call(team):
        out = np.empty((3, 2000), np.float32)
        matmul(team, x, matrix, bias, out)
        return out

    return call, call(get_team(1))


def test_a_team_needs_a_thread():
    with pytest.raises(UsageError, match="`threads` 0"):
        get_team(0)


def test_no_more_threads_than_cpus():
    assert get_team(10_000).threads == affine_cpus()
    assert get_team(10_000) is get_team(affine_cpus())


@needs_two_cpus
def test_jobs_follow_each_other_at_once_and_after_a_sleep(product):
    call, expected = product
    team = get_team(2)
    for pause in [0] * 300 + [0.001] * 30 + [0.05] * 3:
        time.sleep(pause)
        np.testing.assert_array_equal(call(team), expected)


@needs_two_cpus
def test_waiting_threads_sleep(product):
    call, _ = product
    call(get_team(2))
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@needs_two_cpus
def test_python_threads_take_turns(product):
    call, expected = product
    wrong = []

    def work(threads):
        found = [call(get_team(threads)) for _ in range(50)]
        wrong.extend(threads for out in found if not np.array_equal(out, expected))

    run_together([partial(work, 1 + i % 2) for i in range(4)])
    assert wrong == []


@needs_two_cpus
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own_threads(product):
    call, expected = product
    call(get_team(2))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)  # ends the child if it hangs
        os._exit(0 if np.array_equal(call(get_team(2)), expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    np.testing.assert_array_equal(call(get_team(2)), expected)


INTERRUPTED = """
import numpy as np, sys
sys.path[:0] = {path!r}
from random_panels import random_matrix
from rbe_cli.kernels.linear.linear_call import matmul
from rbe_cli.runtime.thread_team import get_team

rng = np.random.default_rng(0)
matrix = random_matrix(rng, 200, 2000, "int8")
x, bias = np.ones((3, 200), np.float32), np.zeros(2000, np.float32)
out = np.empty((3, 2000), np.float32)
matmul(get_team(2), x, matrix, bias, out)
expected = out.copy()
print("ready", flush=True)
try:
    while True:
        matmul(get_team(2), x, matrix, bias, out)
except KeyboardInterrupt:
    matmul(get_team(2), x, matrix, bias, out)
    print("same" if np.array_equal(out, expected) else "different", flush=True)
"""


@needs_two_cpus
@pytest.mark.parametrize("wait", [0.0, 0.0123, 0.05])
def test_an_interruption_leaves_the_team_in_order(wait):
    code = INTERRUPTED.format(path=sys.path)
    with started([sys.executable, "-c", code], stdout=PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(wait)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "same\n"
        assert child.wait(20) == 0


def test_python_threads_may_attend_at_once(fast_2):
    """They take turns."""
    qkv = np.ones((8, 64, 3 * 64), np.float32)
    rows, starts = np.arange(8), np.zeros(8, np.int64)
    outs = [np.zeros((8, 64, 64), np.float32) for _ in range(2)]

    def work(out):
        keys, values = np.zeros((2, 8, 4, 64, 16), np.float32)
        for _ in range(20):
            fast_2.attention(qkv, keys, values, rows, starts, 1.0, out)

    run_together([partial(work, out) for out in outs])
    for out in outs:
        np.testing.assert_allclose(out, 1, rtol=1e-6)
