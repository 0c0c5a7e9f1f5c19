"""Make text from files safe for a terminal, which obeys the control characters in it."""

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # ISO 6429, without tab and newline


def printable(text: str, kept: str = "") -> str:
    """Return a text with all that is not printable escaped, but for the characters in `kept`."""
    if text.isprintable():
        return text
    return "".join(own if own.isprintable() or own in kept else repr(own)[1:-1] for own in text)


def without_controls(text: str) -> str:
    """Return a text of a model as a terminal may show it.

    Control characters are escaped but for newlines and tabs. Others that are not printable stay,
    as texts in many languages need them: wide spaces and joiners.
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)
