"""Python's garbage collector, which a start of `rbe` does without."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """Collect no garbage in the block, and never what is alive at its end.

    While modules are imported and a vocabulary is read, thousands of objects are made that stay:
    looking through them again and again takes a tenth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
