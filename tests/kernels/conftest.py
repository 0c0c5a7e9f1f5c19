import pytest

from rbe_cli.kernels.table import load_kernels


@pytest.fixture(scope="session")
def fast():
    """The Numba kernels on one thread."""
    return load_kernels("fast", threads=1)


@pytest.fixture(scope="session")
def fast_2():
    """The Numba kernels on two threads, where there are two CPUs."""
    return load_kernels("fast", threads=2)
