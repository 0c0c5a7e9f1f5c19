"""What a verb is given to work on: TEXT, a file, stdin, or token ids."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from rbe_cli.errors import BadFileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rbe_cli.container.reader import Container
    from rbe_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Text, if it was text, and its token ids `[n]`."""

    text: str | None
    tokens: "NDArray[np.int64]"


def load_tokenizer(container: "Container") -> "Tokenizer | None":
    """The file's tokenizer; None if it has none."""
    from rbe_cli.text.tokenizer import Tokenizer

    stored = container.tokenizer_json()
    return Tokenizer(stored, container.config.vocab_size) if stored is not None else None


def read_prompts(
    text: str | None,
    file: Path | None,
    tokens: Path | None,
    tokenizer: "Tokenizer | None",
    vocab_size: int,
) -> list[Prompt]:
    """The one text or the sequences of a token file.

    Raises:
        UsageError: none or several inputs were given, the text is empty, or text was given
            to a model without a tokenizer.
    """
    from rbe_cli.text.files import read_text_file
    from rbe_cli.text.token_files import read_token_file

    if sum(given is not None for given in (text, file, tokens)) != 1:
        raise UsageError("give one input: TEXT, -f FILE, - for stdin, or --tokens FILE")
    if tokens is not None:
        return [Prompt(None, sequence) for sequence in read_token_file(tokens, vocab_size)]
    if tokenizer is None:
        raise UsageError("the model has no tokenizer: give token ids with --tokens FILE")
    if file is not None:
        text = read_text_file(file)
    elif text == "-":
        text = "".join(stdin_lines())
    assert text is not None
    ids = tokenizer.encode(text)
    if ids.size == 0:
        raise UsageError("the text is empty")
    return [Prompt(text, ids)]


def stdin_lines() -> Iterator[str]:
    """Lines of stdin as they come: UTF-8 whatever the locale, line ends as newlines.

    Raises:
        UsageError: stdin is closed.
        BadFileError: it is not UTF-8, or cannot be read.
    """
    if sys.stdin is None:
        raise UsageError("stdin is closed")
    try:
        yield from TextIOWrapper(sys.stdin.buffer, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadFileError("stdin is not UTF-8 text") from error
    except OSError as error:
        raise BadFileError(f"stdin cannot be read: {error.strerror}") from error


def parse_size(option: str, text: str) -> int:
    """Bytes of `123456`, `50MB` or `1.5 GiB`.

    Raises:
        UsageError: it has another form, naming the option.
    """
    parts = re.fullmatch(r"([0-9]*\.?[0-9]+) *([kKMGT]?)(i?)B?", text.strip())
    if not parts:
        raise UsageError(f"{option} {text!r} is not a size such as 50MB or 1.5GiB")
    power = " KMGT".index(parts[2].upper() or " ")
    return int(float(parts[1]) * (1024 if parts[3] else 1000) ** power)
