"""The garbage collector rests in a block, and works after it."""

import gc
import weakref

import pytest

from rbe_cli.runtime.collector import paused_collector


class Ring:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_stays_in_the_block_and_goes_after_it() -> None:
    assert gc.isenabled()
    with paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    later = weakref.ref(Ring())
    gc.collect()
    assert later() is None


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="wrong"), paused_collector():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
