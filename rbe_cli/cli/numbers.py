"""Parsers of numbers on the command line: every one has bounds, and the error names the option.

Without an upper bound a number of thirty digits would pass here and fail later, where nobody
can tell which option it came from. The ranges of sampling options are checked by
`GenerationOptions`, those of a compression's targets by `Settings`.
"""

import re
from collections.abc import Callable

import typer

from rbe_cli.quoting import quoted

MAX_SEED = 2**64 - 1
MAX_COUNT = 2**31 - 1
MAX_THREADS = 4096
_MAX_BYTES = 2**63 - 1
_SIZE = re.compile(r"([0-9]{0,30}\.?[0-9]{1,30}) *([kKMGT]?)(i?)B?")


def whole(least: int, most: int = MAX_COUNT) -> Callable[[str], int]:
    """Return a parser of integers from `least` to `most`."""

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:
            raise typer.BadParameter(f"{quoted(text, 40)} is not a whole number") from error
        if not least <= number <= most:
            raise typer.BadParameter(f"{quoted(text, 40)} is not between {least} and {most}")
        return number

    return integer


def one_of(*words: str) -> Callable[[str], str]:
    """Return a parser of one of these words."""

    def word(text: str) -> str:
        if text not in words:
            raise typer.BadParameter(f"{quoted(text, 40)} is not one of {', '.join(words)}")
        return text

    return word


def byte_count(text: str) -> int:
    """Return the bytes of a size such as `123456`, `50MB` or `1.5 GiB`."""
    parts = _SIZE.fullmatch(text.strip())
    if not parts:
        raise typer.BadParameter(f"{quoted(text, 40)} is not a size such as 50MB or 1.5GiB")
    power = " KMGT".index(parts[2].upper() or " ")
    size = float(parts[1]) * (1024 if parts[3] else 1000) ** power
    if not 1 <= size <= _MAX_BYTES:
        raise typer.BadParameter(f"{quoted(text, 40)} is not between 1 byte and 8 EiB")
    return int(size)
