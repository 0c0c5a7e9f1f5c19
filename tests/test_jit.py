import errno

import numba.core.caching
import numpy as np

from rbe_cli.jit import jit


def test_kernels_compile_where_no_cache_folder_can_be_written(monkeypatch):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])

    @jit()
    def double(x):
        return x + x

    assert double(np.float32(1.5)) == 3.0


def test_kernels_run_though_the_disk_is_full(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numba.core.caching.Cache, "save_overload", full)

    @jit()
    def triple(x):
        return x + x + x

    assert triple(np.float32(1.5)) == 4.5


def test_division_by_zero_is_infinite():
    @jit()
    def divide(x, y):
        return x / y

    assert divide(np.float32(1), np.float32(0)) == np.inf
