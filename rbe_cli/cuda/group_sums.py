"""Add numbers over the threads that share a row, in an order that does not change."""

from typing import Any

from numba import cuda

_AT_ONCE = 8  # numbers that a thread adds in one step


@cuda.jit(device=True)
def sum_pairs(shared: Any, group: int, lane: int, lanes: int, a: float, b: float) -> None:
    """Add two numbers of each thread over its group of `lanes` threads.

    All threads of a block must call it. Afterwards, `shared[2 * group * lanes]` holds the first
    sum of a group and the place behind it the second, for all threads to read.

    Args:
        shared: shared memory for two numbers a thread, of the type of the sums.
        group: index of the thread's group in the block; thread `lane` of it calls.
        lane, lanes: index of the thread in its group, and the threads of a group.
        a, b: the thread's numbers.
    """
    start = 2 * group * lanes
    shared[start + 2 * lane] = a
    shared[start + 2 * lane + 1] = b
    cuda.syncthreads()
    count = lanes
    while count > 1:
        left = (count + _AT_ONCE - 1) // _AT_ONCE
        # A thread reads what it alone adds, and writes where no other reads in this step.
        if lane < left:
            for other in range(lane + left, count, left):
                a += shared[start + 2 * other]
                b += shared[start + 2 * other + 1]
            shared[start + 2 * lane] = a
            shared[start + 2 * lane + 1] = b
        cuda.syncthreads()
        count = left
