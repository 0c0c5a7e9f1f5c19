"""Text files: prompts, calibration and evaluation texts."""

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from io import TextIOWrapper
from pathlib import Path

from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.errors import BadFileError

ENCODING = "utf-8-sig"  # UTF-8, with or without a byte-order mark


def read_text_file(path: Path) -> str:
    """Return a UTF-8 file's text without a byte-order mark, line ends as newlines.

    Raises:
        NotFoundError: it does not exist or cannot be opened.
        BadFileError: it is not UTF-8.
    """
    try:
        with open_file(path) as file, TextIOWrapper(file, encoding=ENCODING) as text:
            return text.read()
    except UnicodeDecodeError as error:
        raise not_text(str(path), error) from error


def not_text(name: str, error: UnicodeDecodeError) -> BadFileError:
    """Return the error that says why what was read from `name` is not UTF-8."""
    if error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return BadFileError(f"{name} is UTF-16 text: save it as UTF-8")
    return BadFileError(f"{name} is not UTF-8 text: {error.reason}")
