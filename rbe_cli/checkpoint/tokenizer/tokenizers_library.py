"""Guard calls into the `tokenizers` library: all its failures become errors of this package."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

from rbe_cli.errors import RbeError

_LOCK = RLock()
_LONGEST_REASON = 300  # characters; the library may quote a whole file
# These come from outside the library and pass through.
_NOT_THE_LIBRARYS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, RbeError)


@contextmanager
def library_errors(kind: type[RbeError], sentence: str) -> Iterator[None]:
    """Raise `kind` with the sentence and the library's reason for whatever fails inside.

    The library raises plain `Exception`. Where its Rust code panics (a regular expression that
    takes too long, a damaged table), it raises a `PanicException`, which is a `BaseException`,
    and Rust has written a report to stderr before. That report is dropped.
    """
    with _silent_stderr():
        try:
            yield
        except _NOT_THE_LIBRARYS:
            raise
        except BaseException as error:
            reason = str(error).strip().split("\n")[0][:_LONGEST_REASON]
            raise kind(f"{sentence}: {reason or type(error).__name__}") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what is written to the process's stderr in the block, by Rust or by Python."""
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # stderr is closed, so nothing can be written
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
