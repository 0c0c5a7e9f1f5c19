import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest

from rbe_cli.runtime.buffer_pool import BufferPool
from rbe_cli.runtime.traced_memory import traced_peak

SIZE = 1 << 20
SLACK = 20_000  # Python's own objects, made or freed meanwhile


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_nothing_is_measured_unless_memory_is_traced() -> None:
    pool = BufferPool()
    with pool.borrow((4,)):
        pass
    with traced_peak(pool) as found:
        np.ones(SIZE, np.uint8)
    assert found.peak_bytes == 0
    assert pool.nbytes == 16


@pytest.mark.usefixtures("tracing")
def test_a_peak_is_what_was_in_use_at_once() -> None:
    before = np.ones(SIZE, np.uint8)
    with traced_peak(BufferPool()) as found:
        for _ in range(3):
            np.ones(2 * SIZE, np.uint8)
        np.ones(SIZE, np.uint8)
    assert abs(found.peak_bytes - 2 * SIZE) < SLACK
    assert before.sum() == SIZE


@pytest.mark.usefixtures("tracing")
def test_measurements_may_lie_within_each_other() -> None:
    pool = BufferPool()
    with traced_peak(pool) as outer:
        np.ones(5 * SIZE, np.uint8)  # the outer peak, before the inner ones
        kept = np.ones(SIZE, np.uint8)
        inner = []
        for size in (3, 2):
            with traced_peak(pool) as found:
                np.ones(size * SIZE, np.uint8)
            inner.append(found.peak_bytes)
    assert kept.sum() == SIZE
    for peak, size in ((outer.peak_bytes, 5), (inner[0], 3), (inner[1], 2)):
        assert abs(peak - size * SIZE) < SLACK
    with traced_peak(pool) as outer:
        more = np.ones(SIZE, np.uint8)
        with traced_peak(pool):
            np.ones(3 * SIZE, np.uint8)
    assert more.sum() == SIZE
    assert abs(outer.peak_bytes - 4 * SIZE) < SLACK


@pytest.mark.usefixtures("tracing")
def test_borrowed_memory_counts_for_each_who_borrows_it() -> None:
    pool = BufferPool()
    with pool.borrow((SIZE,), np.uint8):
        pass
    assert pool.nbytes == SIZE
    for _ in range(2):
        with traced_peak(pool) as found:
            for _ in range(2):
                with pool.borrow((SIZE,), np.uint8):
                    pass
        assert abs(found.peak_bytes - SIZE) < SLACK
    with pool.borrow((8,), np.uint8):
        pass
    assert pool.nbytes == 8  # it keeps memory again
    with pytest.raises(ValueError, match="wrong"), traced_peak(pool):
        raise ValueError("wrong")
    assert pool.limit > 0
