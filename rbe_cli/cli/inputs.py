"""What a verb is given to work on: TEXT, a file, stdin, or token ids."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rbe_cli.cli.output import Output
from rbe_cli.errors import BadFileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rbe_cli.container.reader import Container
    from rbe_cli.text.tokenizer import Tokenizer

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


@dataclass(frozen=True)
class Prompt:
    """Text, if it was text, and its token ids `[n]`."""

    text: str | None
    tokens: "NDArray[np.int64]"


class GivenInput(NamedTuple):
    """What the command line names as input; of the three one should be given.

    Attributes:
        text: TEXT; `-` for stdin.
        file: of a text; `-` for stdin.
        tokens: file of token ids.
    """

    text: str | None = None
    file: Path | None = None
    tokens: Path | None = None


def open_rbe(name: str, offline: bool, out: Output) -> "Container":
    """Open the `.rbe` file of this name, which may be on the hub (`container.locate`).

    Raises:
        NotFoundError: it does not exist, or cannot be downloaded.
        BadFileError: it is damaged or something else.
    """
    from rbe_cli.container.find_file import find_rbe
    from rbe_cli.container.reader import Container

    with out.progress() as progress:
        path = find_rbe(name, offline=offline, progress=progress)
    return Container.open(path)


def read_prompts(
    given: GivenInput,
    tokenizer: "Tokenizer | None",
    vocab_size: int,
    whole: bool = False,
    missing: str | None = None,
) -> list[Prompt]:
    """Return the one text, or the sequences of a token file.

    A byte-order mark is not part of a text. The last newline of a file or of stdin ends its last
    line and is not part of the text either, unless the text is wanted `whole`. `missing` says
    why there is no tokenizer.

    Raises:
        UsageError: none or several inputs were given, the text is empty, or text was given
            to a model without a tokenizer.
        NotFoundError, BadFileError: a file cannot be read, or is not UTF-8.
    """
    from rbe_cli.text.token_files import read_token_file

    text, file, tokens = given
    if sum(own is not None for own in given) != 1:
        raise UsageError("give one input: TEXT, -f FILE, - for stdin, or --tokens FILE")
    if tokens is not None:
        return [Prompt(None, sequence) for sequence in read_token_file(tokens, vocab_size)]
    if tokenizer is None:
        why = f" ({missing})" if missing else ""
        raise UsageError(f"the model has no tokenizer{why}: give token ids with --tokens FILE")
    if text is None or text == "-":
        text = _read_text(file or Path("-"))
        text = text if whole else text.removesuffix("\n")
    text = text.removeprefix("\ufeff")
    ids = tokenizer.encode(text)
    if ids.size == 0:
        raise UsageError("the text is empty")
    return [Prompt(text, ids)]


def _read_text(file: Path) -> str:
    from rbe_cli.text.text_files import read_text_file

    return "".join(stdin_lines()) if file == Path("-") else read_text_file(file)


def stdin_lines() -> Iterator[str]:
    """Yield the lines of stdin as they come: UTF-8 whatever the locale, line ends as newlines.

    Raises:
        UsageError: stdin is closed.
        BadFileError: it is not UTF-8, or cannot be read.
    """
    from rbe_cli.text.text_files import ENCODING, not_text

    if sys.stdin is None:
        raise UsageError("stdin is closed")
    try:
        yield from TextIOWrapper(sys.stdin.buffer, encoding=ENCODING)
    except UnicodeDecodeError as error:
        raise not_text("stdin", error) from error
    except OSError as error:
        raise BadFileError(f"stdin cannot be read: {error.strerror}") from error


def unescape(text: str) -> str:
    r"""Return the text with `\n`, `\t`, `\r` and `\\` replaced by what they stand for."""
    return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], text)
