"""Read the vocabularies that are text: `vocab.json`, `merges.txt` and `vocab.txt`.

A byte-order mark is dropped in all of them.
"""

from pathlib import Path

from rbe_cli.checkpoint.checked_files import read_bounded, read_json_object
from rbe_cli.checkpoint.tokenizer_limits import MAX_TOKENIZER_BYTES
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import quoted

_MAX_LINES = 1 << 20  # of a vocabulary or its merges; the largest have 600,000


def read_vocabulary(path: Path) -> dict[str, int]:
    """Return token -> id of a `vocab.json`.

    Raises:
        CheckpointError: it does not hold that.
    """
    vocabulary = read_json_object(path, MAX_TOKENIZER_BYTES)
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise CheckpointError(f"{path}: {quoted(number)} is not the id of {quoted(token)}")
    return vocabulary


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a `merges.txt`, one a line, first merged first.

    Raises:
        CheckpointError: a line does not hold two tokens.
    """
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_lines(path), start=1):
        if line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise CheckpointError(f"{path}, line {number}: {quoted(line)} is not a pair of tokens")
        merges.append((pair[0], pair[1]))
    return merges


def read_vocabulary_lines(path: Path) -> dict[str, int]:
    """Return token -> id of a `vocab.txt`, whose lines are the tokens in order of their ids.

    A token that stands twice has the last of its ids.

    Raises:
        CheckpointError: it is not UTF-8 text.
    """
    return {line.rstrip(): number for number, line in enumerate(_lines(path))}


def _lines(path: Path) -> list[str]:
    try:
        text = read_bounded(path, MAX_TOKENIZER_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8 text: {error.reason}") from error
    if text.count("\n") > _MAX_LINES:
        raise CheckpointError(f"{path} has more than {_MAX_LINES} lines")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
