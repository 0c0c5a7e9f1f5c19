"""Free memory of the heap goes back to the system."""

import platform
import sys

import psutil
import pytest

from rbe_cli.runtime.heap import trim_heap

BLOCK, BLOCKS = 4_000, 10_000  # small enough for the heap of the C library


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries need no help")
def test_free_memory_between_pieces_in_use_is_given_back() -> None:
    process = psutil.Process()
    blocks = [bytes(BLOCK) for _ in range(BLOCKS)]
    del blocks[:-1]  # the last one keeps the end of the heap in use
    before = process.memory_info().rss
    trim_heap()
    given_back = before - process.memory_info().rss
    assert len(blocks[0]) == BLOCK
    assert given_back > BLOCK * BLOCKS / 2


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the C library was asked"))
    trim_heap()
    assert sys.platform == "win32"
