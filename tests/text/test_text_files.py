"""Reading a text, and the ways it can fail."""

from pathlib import Path

import pytest

from rbe_cli.errors import BadFileError, NotFoundError
from rbe_cli.text.text_files import read_text_file


def test_text_is_read_with_newlines(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("naïve\r\n中文\n".encode())
    assert read_text_file(path) == "naïve\n中文\n"


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffa\ufeffb".encode())
    assert read_text_file(path) == "a\ufeffb"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffwords".encode(encoding))
    with pytest.raises(BadFileError, match=r"text\.txt is UTF-16 text: save it as UTF-8"):
        read_text_file(path)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"missing\.txt cannot be read: No such file"):
        read_text_file(tmp_path / "missing.txt")


def test_bytes_that_are_no_text_are_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"na" + "ï".encode("latin-1"))
    with pytest.raises(BadFileError, match=r"latin1\.txt is not UTF-8 text: "):
        read_text_file(path)


def test_a_folder_is_not_a_text(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read: Is a directory"):
        read_text_file(tmp_path)
