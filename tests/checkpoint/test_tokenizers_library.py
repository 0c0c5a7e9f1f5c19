"""Whatever fails in the tokenizers library is one error of ours, and nothing is printed."""

import os

import pytest
from tokenizers import Tokenizer

from rbe_cli.checkpoint.tokenizers_library import library_errors
from rbe_cli.errors import CheckpointError, HeaderError


def test_a_failure_becomes_the_error_that_is_asked_for(capfd):
    with (
        pytest.raises(CheckpointError, match=r"^it cannot be read: ") as caught,
        library_errors(CheckpointError, "it cannot be read"),
    ):
        Tokenizer.from_buffer(b"{}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Exception("first line\nsecond"), "it fails: first line"),
        (Exception("  \n"), "it fails: Exception"),
        (ZeroDivisionError(), "it fails: ZeroDivisionError"),
        (BaseException("a panic"), "it fails: a panic"),
        (Exception("x" * 400), "it fails: " + "x" * 300 + "..."),
    ],
)
def test_its_first_line_is_the_reason(error, message):
    with pytest.raises(CheckpointError) as caught, library_errors(CheckpointError, "it fails"):
        raise error
    assert str(caught.value) == message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), MemoryError(), GeneratorExit(), HeaderError("a")]
)
def test_what_comes_from_outside_passes_through(error):
    with pytest.raises(type(error)) as caught, library_errors(CheckpointError, "it fails"):
        raise error
    assert caught.value is error


def test_what_is_printed_there_is_dropped(capfd):
    with library_errors(CheckpointError, "it fails"):
        os.write(2, b"a report of a panic\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_it_works_where_stderr_is_closed(monkeypatch):
    def closed(descriptor):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("os.dup", closed)
    with (
        pytest.raises(CheckpointError, match="it fails: why"),
        library_errors(CheckpointError, "it fails"),
    ):
        raise ValueError("why")
    with library_errors(CheckpointError, "it fails"):
        pass
