import pytest

from rbe_cli.kernels.kernel_table import load_kernels


@pytest.fixture(scope="session", params=["fast", "reference"])
def kernels(request):
    """Both tables; one thread, as results do not depend on it."""
    return load_kernels(request.param, threads=1)


@pytest.fixture(scope="session")
def fast():
    return load_kernels("fast", threads=1)
