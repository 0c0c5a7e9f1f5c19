"""A kind whose reader breaks each promise in turn, to test the fuzzer itself."""

import ctypes
import os
import tempfile
import warnings
from typing import Any, ClassVar

from fuzz.draws import Draws
from fuzz.kinds import InputKind

from rbe_cli.errors import BadFileError

PROMISES = ("print", "write", "start", "warn", "memory", "untouched", "raise", "none")


class BrokenKind(InputKind):
    """A kind of which each case breaks a promise; the case is its name."""

    name: ClassVar[str] = "broken"
    errors = (BadFileError,)

    def case(self, draws: Draws) -> Any:
        """Return the name of a promise; a crash is rare, as it ends a batch of cases."""
        return "crash" if draws.below(64) == 0 else draws.one_of(PROMISES)

    def read(self, case: Any) -> None:
        """Break the promise."""
        _break(case)


def _break(promise: str) -> None:
    if promise == "print":
        print("a reader prints")
    elif promise == "write":
        with tempfile.NamedTemporaryFile():
            pass
    elif promise == "start":
        os.posix_spawn("/bin/true", ["true"], {})
    elif promise == "warn":
        warnings.warn("a reader warns", stacklevel=1)
    elif promise == "memory":
        bytearray(b"1") * (100 << 20)
    elif promise == "untouched":
        bytearray(4 << 30)
    elif promise == "raise":
        raise IndexError("a reader fails")
    elif promise == "crash":
        ctypes.string_at(0)
