"""Turns an exception into the one error that is reported to the user."""

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rbe_cli.errors import NotFoundError, RbeError, UsageError
from rbe_cli.memory_needs import memory_sentence

_DASH = "a text that begins with - goes after a -- of its own: rbe {verb} FILE.rbe -- '-text'"
_TEXT_VERBS = ("run", "generate")


def told(
    error: BaseException, arguments: Sequence[str], flags: Mapping[str, str] | None = None
) -> RbeError:
    """Return the error to report for any exception of a command line.

    Args:
        error: what was raised.
        arguments: the command line, for the hint at texts that begin with a dash.
        flags: by parameter, see `with_flags`.
    """
    if sentence := memory_sentence(error):
        traceback.clear_frames(error.__traceback__)  # lets go of what fills the memory
        return RbeError(sentence)
    if isinstance(error, RbeError):
        error = with_flags(error, flags or {})
        if isinstance(error, NotFoundError) and _glued_file(arguments):
            return type(error)(f"{error}; {_dash_hint(arguments)}")
        return error
    # The command-line parser's own errors carry their sentence in this method.
    sentence = getattr(error, "format_message", None)
    if sentence is not None:
        return UsageError(sentence() + _option_hint(error, arguments))
    name = type(error).__name__
    return RbeError(
        f"this is a bug in rbe ({name}: {error}). Please report it, with the command, the output "
        "of 'rbe --version -v', and what the same command prints with -v"
    )


def with_flags(error: RbeError, flags: Mapping[str, str]) -> RbeError:
    """Return an error with flags in the place of the parameters that it names.

    The library names parameters in backticks, as in "`top_p` must lie in (0, 1]".

    Args:
        error: of the library.
        flags: parameter -> flag; other words in backticks stay as they are.
    """
    message = str(error)
    found = re.sub(r"`(\w+)`", lambda name: flags.get(name[1], name[0]), message)
    return error if found == message else type(error)(found)


def flags_of(command: Any) -> dict[str, str]:
    """Return the flag of each option of a verb, by the name of its parameter."""
    return {
        parameter.name: parameter.opts[0]
        for parameter in command.params
        if parameter.param_type_name == "option"
    }


def _glued_file(arguments: Sequence[str]) -> bool:
    """Whether a text such as `-foo` may have been read as `-f oo`."""
    return bool(_dash_hint(arguments)) and any(
        word.startswith("-f") and len(word) > 2 for word in _options(arguments)
    )


def _option_hint(error: BaseException, arguments: Sequence[str]) -> str:
    """Return a hint if an unknown option, similar to none that exists, may be a text."""
    is_unknown = hasattr(error, "option_name") and not getattr(error, "possibilities", True)
    hint = _dash_hint(arguments) if is_unknown else ""
    return f"; {hint}" if hint else ""


def _dash_hint(arguments: Sequence[str]) -> str:
    verb = next((word for word in arguments if word in _TEXT_VERBS), None)
    return _DASH.format(verb=verb) if verb else ""


def _options(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments before a `--`."""
    for word in arguments:
        if word == "--":
            return
        yield word
