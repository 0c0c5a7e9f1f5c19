"""Kernels are listed, and run with the threads that were asked for."""

import numpy as np
import pytest
from numba import cuda

from rbe_cli.cuda.kernel import Kernel
from rbe_cli.cuda.kernel_modules import all_kernels
from rbe_cli.errors import UsageError


def _count_threads(found):
    found[cuda.grid(1)] = cuda.blockIdx.x


def test_a_kernel_runs_in_blocks_of_threads() -> None:
    found = np.full(6, -1, np.int32)
    Kernel(_count_threads, ("void(int32[::1])",)).launch(2, 3, found)
    assert found.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("blocks", "threads"), [(0, 1), (1, 0), (1, 257)])
def test_an_impossible_grid_is_refused(blocks: int, threads: int) -> None:
    with pytest.raises(UsageError, match="_count_threads cannot run"):
        Kernel(_count_threads, ("void(int32[::1])",)).launch(blocks, threads, np.zeros(1, np.int32))


def test_every_kernel_is_listed_under_its_name() -> None:
    assert {name: own.name for name, own in all_kernels().items()} == {
        name: name for name in all_kernels()
    }
