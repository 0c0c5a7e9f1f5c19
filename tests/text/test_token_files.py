"""Token files in both forms, and everything that is wrong with some."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from rbe_cli.errors import BadFileError, NotFoundError, RbeError, UsageError
from rbe_cli.text.token_files import read_token_file

VOCAB_SIZE = 300


def write(path: Path, content: object) -> Path:
    """A token file from text, bytes, or an array."""
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, np.asarray(content))
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("lines.txt", "1 2 3\n4 5\n", [[1, 2, 3], [4, 5]]),
        ("crlf.txt", "1\t2\r\n299\r\n\r\n", [[1, 2], [299]]),
        ("no_end.tokens", "0", [[0]]),
        ("one.npy", np.array([7, 8], dtype=np.uint16), [[7, 8]]),
        ("upper.NPY", np.array([7, 8], dtype=">i4"), [[7, 8]]),
        ("padded.npy", [[1, 2, -1], [-1, 3, -1], [4, 5, 6]], [[1, 2], [3], [4, 5, 6]]),
        ("fortran.npy", np.asfortranarray([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ],
)
def test_sequences_are_read(
    tmp_path: Path, name: str, content: object, expected: list[list[int]]
) -> None:
    path = tmp_path / name
    if name.endswith(".NPY"):  # np.save would append .npy
        path = write(tmp_path / "lower.npy", content).rename(path)
    else:
        write(path, content)
    sequences = read_token_file(path, VOCAB_SIZE)
    assert [sequence.tolist() for sequence in sequences] == expected
    assert all(type(s) is np.ndarray and s.dtype == np.int64 for s in sequences)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 2\n3 300\n", r"a\.txt, line 2: token id 300 is outside.*\(0 to 299\)"),
        ("b.txt", "1 -1\n", r"b\.txt, line 1: token id -1 is outside"),
        ("c.txt", "1\n\n2\n", r"c\.txt, line 2 is empty"),
        ("d.txt", "\n \n", r"d\.txt is empty"),
        ("e.txt", "", r"e\.txt is empty"),
        ("a.npy", [[1, 2], [3, 300]], r"a\.npy, row 2: token id 300 is outside"),
        ("b.npy", [[1, -1, 2]], r"b\.npy, row 1: token id -1 is outside"),
        ("c.npy", [[1, 2], [-1, -1]], r"c\.npy, row 2 is empty"),
        ("d.npy", np.array([2**64 - 1], dtype=np.uint64), r"id 18446744073709551615 is outside"),
        ("e.npy", np.zeros(0, np.int64), r"e\.npy, row 1 is empty"),
        ("f.npy", np.zeros((0, 4), np.int64), r"f\.npy is empty"),
    ],
)
def test_tokens_that_cannot_be_used(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_token_file(write(tmp_path / name, content), VOCAB_SIZE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "1 2\nMiss Brooke\n", r"a\.txt, line 2: 'Miss' is not a token id"),
        ("b.txt", "1_0", "'1_0' is not a token id"),
        ("c.txt", "9" * 5000, r"'9{80}\.\.\.' is not a token id"),
        ("d.txt", "٣", "is not a token id"),
        ("e.txt", b"\x93NUMPY\x01\x00\xff", "not UTF-8 text"),
        ("a.npy", "1 2 3", "not a whole .npy file"),
        ("b.npy", b"", "not a whole .npy file"),
        ("c.npy", [0.5], "holds float64 in 1 dimensions"),
        ("d.npy", [True], "holds bool"),
        ("e.npy", 5, "in 0 dimensions"),
        ("f.npy", [[[1]]], "in 3 dimensions"),
        ("g.npy", np.array([{}], dtype=object), "not a whole .npy file"),
    ],
)
def test_what_is_no_token_file(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(BadFileError, match=message):
        read_token_file(write(tmp_path / name, content), VOCAB_SIZE)


@pytest.mark.parametrize("shape", [b"(4000000000000,)", b"(40000000,)", b"(65536, 1024)"])
def test_an_array_that_promises_more_than_the_file_holds(tmp_path: Path, shape: bytes) -> None:
    path = write(tmp_path / "huge.npy", np.arange(4))
    content = path.read_bytes()
    assert b"(4,), }" in content
    path.write_bytes(content.replace(b"(4,), }".ljust(len(shape) + 3), shape + b", }"))
    tracemalloc.start()
    try:
        with pytest.raises(BadFileError, match=r"not a whole \.npy file"):
            read_token_file(path, VOCAB_SIZE)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


@examples(
    200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # both files are rewritten
)
@given(position=st.integers(0, 147), byte=st.integers(0, 255))
def test_a_damaged_array_never_raises_a_foreign_error(
    tmp_path: Path, position: int, byte: int
) -> None:
    content = bytearray(write(tmp_path / "whole.npy", np.arange(5)).read_bytes())
    content[position] = byte
    path = write(tmp_path / "damaged.npy", bytes(content))
    try:
        outcome = str(read_token_file(path, VOCAB_SIZE)[0].size)
    except RbeError as error:
        outcome = str(error)
    assert outcome == "5" or outcome.startswith(str(path))


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    for name in ("missing.npy", "missing.txt"):
        with pytest.raises(NotFoundError, match=f"{name} cannot be read: No such file"):
            read_token_file(tmp_path / name, VOCAB_SIZE)


def test_a_folder_is_not_a_token_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read: Is a directory"):
        read_token_file(tmp_path, VOCAB_SIZE)


def test_rows_without_ids_are_not_counted(tmp_path):
    path = tmp_path / "rows.npy"
    with path.open("wb") as file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (10**15, 0)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UsageError, match="row 1 is empty"):
        read_token_file(path, 10)
