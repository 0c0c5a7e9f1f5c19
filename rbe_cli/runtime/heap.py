"""The heap of the C library."""

import ctypes
import sys
from contextlib import suppress


def trim_heap() -> None:
    """Give memory that is free in the heap back to the system.

    glibc keeps it otherwise. Elsewhere nothing is done: other libraries give it back themselves.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # the C library is another one
            ctypes.CDLL(None).malloc_trim(0)
