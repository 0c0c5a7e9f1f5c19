"""Quote what comes from a file or the command line in a message: escaped, and never long."""

from reprlib import Repr

QUOTED_CHARACTERS = 80
MESSAGE_CHARACTERS = 2000
_CUT = "..."


def quoted(value: object, characters: int = QUOTED_CHARACTERS) -> str:
    """Return a value as Python writes it: control characters escaped, and cut where it is long.

    Only the beginning of a long text or container is looked at, so that a message about a value
    takes no longer than one about a short one.

    Args:
        value: a text, number or container of any size; the parts of a container may be shared.
        characters: of the value that are shown at most.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= characters else value[:characters] + _CUT)
    brief = Repr()
    brief.maxlevel = 2
    try:
        return clipped(brief.repr(value), characters)
    except ValueError:  # Python does not write integers of thousands of digits
        return "a number that is too large"


def clipped(text: str, characters: int = MESSAGE_CHARACTERS) -> str:
    """Return a text on one line: control characters escaped, and cut after so many characters."""
    shown = text if len(text) <= characters else text[:characters] + _CUT
    if shown.isprintable():
        return shown
    return "".join(own if own.isprintable() else repr(own)[1:-1] for own in shown)


def shortened(message: str) -> str:
    """Return a whole message, of whose middle a part is left out if it is very long."""
    half = MESSAGE_CHARACTERS // 2
    if len(message) <= MESSAGE_CHARACTERS:
        return message
    return f"{message[:half]} {_CUT} {message[-half:]}"
