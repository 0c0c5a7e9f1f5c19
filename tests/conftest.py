"""What all tests share: deadlines, threads, and how many examples Hypothesis tries."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy  # noqa: F401 - the limit below holds for a BLAS that is loaded
import pytest
from examples import QUICK
from hypothesis import settings
from threadpoolctl import threadpool_limits

pytest_plugins = ["fixtures.compiled_kernels", "fixtures.tiny_checkpoint", "fixtures.tiny_folder"]

# Examples are not timed: compilation and shared machines make single ones slow. `quick` tries the
# same examples in every run; `full` (make test-full) tries more of them, and others every time.
settings.register_profile("quick", deadline=None, max_examples=QUICK, derandomize=True)
settings.register_profile("full", deadline=None, max_examples=10 * QUICK, print_blob=True)
settings.load_profile("quick")

# A shell ignores SIGINT for what a script starts with `&`, nohup ignores SIGHUP, and processes
# inherit that. Tests of signals need the usual handlers, here and in the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's BLAS to one thread, as the product does: sums then have the same bits."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_compiled_thread() -> Iterator[None]:
    """Let compiled programs run on one thread by default where several test processes run.

    A program's threads wait for each other by spinning, which takes long if they share a CPU.
    Tests of several threads ask for them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr("rbe_cli.runtime.thread_team.default_threads", lambda: 1)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """Real checkpoints and texts beside the repository; None where there are none."""
    return SHARED_DATA if SHARED_DATA.is_dir() else None
