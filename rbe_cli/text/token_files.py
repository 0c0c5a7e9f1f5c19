"""Token files: `.npy` arrays of ids, or text with one sequence of space-separated ids a line."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.checkpoint.npy_header import check_npy_header
from rbe_cli.errors import BadFileError, UsageError
from rbe_cli.quoting import quoted
from rbe_cli.text.text_files import read_text_file

Integers = NDArray[np.integer[Any]]

_PADDING = -1
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # fits int64; what is longer is no token id


def read_token_file(path: Path, vocab_size: int) -> list[NDArray[np.int64]]:
    """Return the sequences `[n]` of a token file, none empty, every id in `[0, vocab_size)`.

    A name that ends in `.npy` is an array of integers: 1-D is one sequence, 2-D has one a row,
    padded with -1 at either end. Any other name is text.

    Raises:
        NotFoundError: it does not exist or cannot be opened.
        BadFileError: it is not a token file.
        UsageError: it holds no sequence, an empty one, or an id outside the vocabulary.
    """
    is_array = path.suffix.lower() == ".npy"
    sequences = _read_array(path) if is_array else _read_text(path)
    if not sequences:
        raise UsageError(f"{path} is empty")
    for number, sequence in enumerate(sequences, start=1):
        _check(sequence, vocab_size, f"{path}, {'row' if is_array else 'line'} {number}")
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def _read_text(path: Path) -> list[Integers]:
    """Return one sequence a line."""
    text = read_text_file(path)
    lines = text.rstrip().split("\n") if text.strip() else []
    return [_parse_line(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]


def _parse_line(line: str, place: str) -> Integers:
    """Return a line's ids; `place` names the line in errors."""
    words = line.split()
    for word in words:
        if not _INTEGER.fullmatch(word):
            raise BadFileError(f"{place}: {quoted(word)} is not a token id")
    return np.array(words, dtype=np.int64)


def _read_array(path: Path) -> list[Integers]:
    """Return the sequences of a `.npy` file."""
    with open_file(path) as file:
        content = file.read()
    try:
        array = _array(content)
    except Exception as error:  # numpy's header parser lets errors of many classes through
        raise BadFileError(f"{path} is not a whole .npy file") from error
    if not np.issubdtype(array.dtype, np.integer) or array.ndim not in (1, 2):
        raise BadFileError(
            f"{path} holds {array.dtype} in {array.ndim} dimensions, not integers in 1 or 2"
        )
    if array.ndim == 1:
        return [array]
    rows = array if array.size else array[:1]  # without ids there may be any number of rows
    return [_strip_padding(row) for row in rows]


def _array(content: bytes) -> NDArray[Any]:
    """Return the array of a `.npy` file, whose header promises no more than the file holds."""
    file = BytesIO(content)
    check_npy_header(file, len(content))
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _strip_padding(row: Integers) -> Integers:
    """Return a row without the -1 at its ends."""
    tokens = np.flatnonzero(row != _PADDING)
    return row[tokens[0] : tokens[-1] + 1] if tokens.size else row[:0]


def _check(sequence: Integers, vocab_size: int, place: str) -> None:
    """Refuse a sequence that is empty or leaves the vocabulary."""
    if sequence.size == 0:
        raise UsageError(f"{place} is empty")
    outside = sequence[(sequence < 0) | (sequence >= vocab_size)]
    if outside.size:
        raise UsageError(
            f"{place}: token id {outside[0]} is outside the vocabulary (0 to {vocab_size - 1})"
        )
