import numpy as np

from rbe_cli.runtime.buffer_pool import BufferPool


def test_memory_is_lent_again():
    pool = BufferPool()
    with pool.borrow((3, 5)) as first:
        assert first.shape == (3, 5)
        assert first.dtype == np.float32
        with pool.borrow((3, 5)) as second:
            assert not np.shares_memory(first, second)
    assert pool.nbytes == 2 * 60
    with pool.borrow((15,), np.int32) as third:
        assert np.shares_memory(third, first) or np.shares_memory(third, second)
    pool.clear()
    assert pool.nbytes == 0


def test_no_more_is_kept_than_the_limit():
    pool = BufferPool(limit=100)
    with pool.borrow((20,)), pool.borrow((15,)):
        pass
    assert 0 < pool.nbytes <= 100


def test_an_error_gives_memory_back():
    pool = BufferPool()
    try:
        with pool.borrow((4,)):
            raise ValueError
    except ValueError:
        pass
    assert pool.nbytes == 16
