"""Everything that can go wrong, as one tree; each branch has its exit code.

    RbeError                     1   any failure that has no branch of its own
    ├── UsageError               2   a flag, prompt, preset or config file that cannot be used
    ├── BadFileError             3   a file that is damaged or is not what it should be
    │   ├── CheckpointError          a checkpoint: a tensor missing, extra, misshapen, NaN ...
    │   └── ContainerError           a `.rbe` file; one subclass a broken invariant
    │       ├── TruncatedError           the file ends before its declared end
    │       ├── MagicError               it does not begin as an `.rbe` file does
    │       ├── VersionError             a format or codec version this tool does not know
    │       ├── HeaderError              the header is too large, malformed or contradicts itself
    │       ├── GeometryError            sections overlap, leave a hole or lie out of order
    │       ├── ChecksumError            bytes differ from what was written
    │       └── PayloadError             a section's bytes do not decode to its tensor
    ├── NotFoundError            4   a file, folder or model that does not exist
    │   └── OfflineError             it would have to be downloaded, and that is not possible
    ├── ReaderGoneError        141   nobody reads stdout any more, as in `rbe ... | head -1`
    ├── QualityError             1   a compressed model is worse than was promised
    └── OutputError              1   the output exists, or cannot be written

Interruption (Ctrl-C) is not an error of ours: `KeyboardInterrupt` ends with 130. `Terminated` ends
with 128 and the number of its signal: 143 for SIGTERM, 129 for SIGHUP. `ReaderGoneError` ends the
command silently; its code is the one that a shell gives to a program ended by SIGPIPE.
A message is one clear sentence that names the file, tensor or flag at fault.
"""

import signal

INTERRUPTED = 130  # exit code


class Terminated(BaseException):
    """The process was asked to end: by SIGTERM, or by SIGHUP as its terminal was closed.

    Attributes:
        exit_code: of the command, as a shell gives it to a program that the signal ends.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class RbeError(Exception):
    """Base of all errors that are reported as one sentence."""

    exit_code = 1


class UsageError(RbeError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class BadFileError(RbeError):
    """A file is damaged or of the wrong kind."""

    exit_code = 3


class CheckpointError(BadFileError):
    """A checkpoint does not hold a GPT-2 that this tool can represent."""


class ContainerError(BadFileError):
    """A `.rbe` file breaks an invariant of its format (docs/FORMAT.md)."""


class TruncatedError(ContainerError):
    """The file ends before its declared end."""


class MagicError(ContainerError):
    """The file does not begin with the `.rbe` magic."""


class VersionError(ContainerError):
    """The format version or a codec version is unknown."""


class HeaderError(ContainerError):
    """The header is too large, malformed or contradicts itself."""


class GeometryError(ContainerError):
    """Sections overlap, leave a hole, or lie out of order."""


class ChecksumError(ContainerError):
    """Bytes differ from those that were written."""


class PayloadError(ContainerError):
    """A section's bytes do not decode to the tensor it declares."""


class NotFoundError(RbeError):
    """A file, folder or model does not exist."""

    exit_code = 4


class OfflineError(NotFoundError):
    """Something would have to be downloaded, and that is not possible."""


class ReaderGoneError(RbeError):
    """Nobody reads stdout any more."""

    exit_code = 141


class QualityError(RbeError):
    """A compressed model is worse than was promised."""


class OutputError(RbeError):
    """The output exists already or cannot be written."""
