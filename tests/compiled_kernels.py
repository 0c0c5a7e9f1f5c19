"""Fixtures: the compiled kernels, on one or two threads and with each instruction set."""

import pytest

from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team


@pytest.fixture(scope="session")
def fast():
    """The compiled kernels on one thread."""
    return load_kernels("fast", threads=1)


@pytest.fixture(scope="session")
def fast_2():
    """The compiled kernels on two threads, where there are two CPUs."""
    return load_kernels("fast", threads=2)


@pytest.fixture(scope="session", params=available(), ids=str)
def team(request):
    """One thread with each instruction set that this CPU has."""
    return get_team(1, request.param)
