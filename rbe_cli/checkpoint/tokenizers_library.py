"""Guard calls into the `tokenizers` library: their failures become errors, and their time ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING, BinaryIO

from rbe_cli.errors import RbeError, Terminated
from rbe_cli.quoting import clipped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LOCK = RLock()
_LONGEST_REASON = 300  # characters; the library may quote a whole file
# These come from outside the library and pass through.
_NOT_THE_LIBRARYS = (
    KeyboardInterrupt,
    Terminated,
    SystemExit,
    GeneratorExit,
    MemoryError,
    RbeError,
)
_POLL_SECONDS = 0.05
# The seconds that a text may take, and the characters for each second more. Usual tokenizers take
# less than a tenth of it.
_SECONDS, _CHARACTERS_A_SECOND = 1.0, 100_000


@contextmanager
def library_errors(kind: type[RbeError], sentence: str) -> Iterator[None]:
    """Raise `kind` with the sentence and the library's reason for whatever fails inside.

    The library raises plain `Exception`. Where its Rust code panics (a regular expression that
    takes too long, a damaged table), it raises a `PanicException`, which is a `BaseException`,
    and Rust has written a report to stderr before. That report is dropped.
    """
    with _held_stderr() as report:
        try:
            yield
        except _NOT_THE_LIBRARYS:
            raise
        except BaseException as error:
            report.truncate(0)
            reason = clipped(str(error).strip().split("\n")[0], _LONGEST_REASON)
            raise kind(f"{sentence}: {reason or type(error).__name__}") from error


def encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    """Return the ids of a text; failures are the library's own.

    A regular expression can take hours for a short text, and the library cannot be interrupted.
    So it runs in a thread of its own, which is left behind when its time is over.

    Raises:
        TimeoutError: it takes far longer than such a text should.
    """
    call = _Encoding(tokenizer, text)
    call.start()
    return call.result(_SECONDS + len(text) / _CHARACTERS_A_SECOND)


class _Encoding(Thread):
    """Encode a text in a thread."""

    def __init__(self, tokenizer: "Tokenizer", text: str) -> None:
        super().__init__(daemon=True)
        self._tokenizer, self._text = tokenizer, text
        self._done = Event()
        self._ids: list[int] = []
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread.

        Raises:
            MemoryError: there is no room for one more.
        """
        try:
            super().start()
        except RuntimeError as error:
            raise MemoryError(str(error)) from error

    def run(self) -> None:
        """Encode the text, and keep the ids or what is raised."""
        try:
            # The way for several texts is the one that lets other threads run meanwhile.
            [encoding] = self._tokenizer.encode_batch_fast([self._text])
            self._ids = encoding.ids
        except BaseException as error:  # the library's panics are no `Exception`
            self._error = error
        self._done.set()

    def result(self, seconds: float) -> list[int]:
        """Return the ids, or raise what was raised.

        Raises:
            TimeoutError: `seconds` have gone by, and this process has computed for as long: it
                may not have had the CPU.
        """
        wall, computed = time.monotonic(), time.process_time()
        while not self._done.wait(_POLL_SECONDS):
            if min(time.monotonic() - wall, time.process_time() - computed) > seconds:
                raise TimeoutError("it takes too long")
        if self._error is not None:
            raise self._error
        return self._ids


@contextmanager
def _held_stderr() -> Iterator[BinaryIO]:
    """Hold back what the process writes to stderr in the block, by Rust, Python or any thread.

    Yields:
        The file that holds it. What is in it at the end of the block goes to stderr.
    """
    with _LOCK:
        try:
            stderr = os.dup(2)
        except OSError:  # stderr is closed, so nothing can be written
            yield BytesIO()
            return
        with open(stderr, "wb") as output, _scratch_file() as held:
            os.dup2(held.fileno(), 2)
            try:
                yield held
            finally:
                os.dup2(stderr, 2)
                held.seek(0)
                with suppress(OSError):  # nobody reads it any more
                    output.write(held.read())
                    output.flush()


def _scratch_file() -> BinaryIO:
    """Return an empty file that nobody else sees; in memory, where the system has such."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("rbe"), "w+b", buffering=0)
    from tempfile import TemporaryFile

    return TemporaryFile(buffering=0)
