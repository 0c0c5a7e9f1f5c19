"""What a kind of input is: how a seed makes a case, and what is done with it."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from fuzz.draws import Draws

from rbe_cli.errors import RbeError

ACCEPTED = "accepted"
LONGEST_MESSAGE = 1000  # characters
FAILED = "FAILED"


class Verdict(NamedTuple):
    """What became of a case: `accepted`, the class of the error that refused it, or `FAILED`.

    Attributes:
        name: one of these.
        fault: what is wrong, with a traceback; empty unless it failed.
    """

    name: str
    fault: str = ""


class BrokenPromiseError(Exception):
    """A reader accepted what it should refuse, or gave what it should not give."""


class InputKind(ABC):
    """A kind of input.

    A case is a value that msgpack can hold: bytes, or a list or map of such.

    Attributes:
        name: of the kind.
        share: of the time of a run.
        memory: bytes that reading a case may take whatever its size.
        errors: what readers of this kind may raise.
    """

    name: ClassVar[str]
    share: ClassVar[float] = 1.0
    memory: ClassVar[int] = 32 << 20
    errors: ClassVar[tuple[type[RbeError], ...]]

    @abstractmethod
    def case(self, draws: Draws) -> Any:
        """Return a case."""

    @abstractmethod
    def read(self, case: Any) -> None:
        """Read a case as the product does, and check what it gives.

        Raises:
            RbeError: one of `errors`, if it is refused.
            BrokenPromiseError: it is accepted, and what it gives is wrong.
        """

    def size(self, case: Any) -> int:
        """Return about the bytes of a case."""
        if isinstance(case, bytes | str):
            return len(case)
        if isinstance(case, dict):
            return sum(map(self.size, case.values()))
        return sum(map(self.size, case)) if isinstance(case, list | tuple) else 8

    def verdict(self, case: Any) -> Verdict:
        """Read a case, and judge what happens."""
        try:
            self.read(case)
        except self.errors as error:
            message = str(error)
            if message.isprintable() and 0 < len(message) <= LONGEST_MESSAGE:
                return Verdict(type(error).__name__)
            return Verdict(FAILED, f"message of {len(message)} characters: {message[:2000]!a}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return Verdict(FAILED, traceback.format_exc())
        return Verdict(ACCEPTED)


def check_notes(notes: Iterable[str]) -> None:
    """Check that each note for the user is one line of bounded length."""
    for note in notes:
        is_fit = note.isprintable() and len(note) <= LONGEST_MESSAGE
        need(is_fit, f"a note has {len(note)} characters: {note[:300]!a}")


def need(condition: bool, promise: str) -> None:
    """Raise `BrokenPromiseError` unless a promise is kept."""
    if not condition:
        raise BrokenPromiseError(promise)
