"""Text files: prompts, calibration and evaluation texts."""

from io import TextIOWrapper
from pathlib import Path

from rbe_cli.checkpoint.files import open_file
from rbe_cli.errors import BadFileError


def read_text_file(path: Path) -> str:
    """A UTF-8 file's text, line ends as newlines.

    Raises:
        NotFoundError: it does not exist or cannot be opened.
        BadFileError: it is not UTF-8.
    """
    try:
        with open_file(path) as file, TextIOWrapper(file, encoding="utf-8") as text:
            return text.read()
    except UnicodeDecodeError as error:
        raise BadFileError(f"{path} is not UTF-8 text: {error.reason}") from error
