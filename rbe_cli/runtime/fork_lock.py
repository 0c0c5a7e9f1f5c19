"""Locks that a forked child finds free, and what they guard whole.

A fork copies the locks, but not the threads that hold them: in the child they would stay taken. So
the thread that forks takes all of these locks before, and parent and child release them after. A
fork waits for the calls of other threads that hold one.
"""

import os
import threading
from itertools import count
from types import TracebackType
from typing import Self
from weakref import WeakSet

_numbers = count()
_known: "WeakSet[ForkLock]" = WeakSet()
_forking = threading.RLock()  # of the next one: two threads may fork
_taken: "list[ForkLock]" = []


class ForkLock:
    """A lock that one thread may take several times. Use it with `with`.

    Attributes:
        place: where it comes in the order in which a fork takes locks.
    """

    def __init__(self, *, is_inner: bool = False) -> None:
        """Create a lock that is free.

        Args:
            is_inner: whether calls that hold other locks take it. Nothing else is taken then.
        """
        self.place = is_inner, next(_numbers)
        self._lock = threading.RLock()
        _known.add(self)

    def __enter__(self) -> Self:
        """Take the lock, once no other thread holds it."""
        self._lock.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lock."""
        self._lock.release()


def _before_fork() -> None:
    """Take all locks, the oldest first, as a call that holds one may take a newer one."""
    _forking.acquire()
    _taken[:] = sorted(_known, key=lambda own: own.place)
    for own in _taken:
        own.__enter__()


def _after_fork() -> None:
    for own in reversed(_taken):
        own.__exit__(None, None, None)
    _taken.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
