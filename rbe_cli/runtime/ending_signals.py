"""Signals that end a command: Ctrl-C (SIGINT), a polite kill (SIGTERM), a closed terminal (SIGHUP).

The first raises an exception in the main thread, so that everything is left as after any other
error. Others that come at once after it are dropped, and cannot disturb that.
"""

import os
import signal
import time
from types import FrameType

from rbe_cli.errors import Terminated

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_UNDISTURBED = 5.0  # seconds after the first signal; a later one ends the process at once


class EndingSignals:
    """Turns signals into exceptions. A process has one such object."""

    def __init__(self) -> None:
        self._first: float | None = None  # when it came, in seconds

    def catch(self) -> None:
        """Begin to catch them; those that the caller of the process ignores stay ignored.

        `nohup` ignores SIGHUP, and a shell SIGINT for what a script starts with `&`.
        """
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._end)

    @property
    def have_come(self) -> bool:
        """Return whether a signal has begun to end the command."""
        return self._first is not None

    def listen_again(self) -> None:
        """Take the next signal for the first one: the last has not ended the command."""
        self._first = None

    def _end(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
        if now - self._first > _UNDISTURBED:
            os._exit(Terminated(number).exit_code)


SIGNALS = EndingSignals()
