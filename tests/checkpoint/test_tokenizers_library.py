"""Whatever fails in the tokenizers library is one error of ours, and nothing is printed."""

import os
from contextlib import suppress

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from rbe_cli.checkpoint.tokenizers_library import encode, library_errors
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


def panic():
    os.write(2, b"a report of a panic\n")
    raise BaseException("a panic")


def test_what_a_failure_prints_is_dropped(capfd):
    with pytest.raises(CheckpointError), library_errors(CheckpointError, "it fails"):
        panic()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_what_others_print_meanwhile_is_printed_afterwards(capfd, error):
    with suppress(KeyboardInterrupt), library_errors(CheckpointError, "it fails"):
        os.write(2, b"a thread's note\n")
        if error:
            raise error
    assert capfd.readouterr().err == "a thread's note\n"


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


class Failing:
    """Stand for a tokenizer that fails, as the library's panics do."""

    def encode_batch_fast(self, texts):
        raise BaseException(f"a panic in {texts}")


def test_the_ids_of_a_text_and_what_is_raised_come_from_a_thread():
    tokenizer = Tokenizer(models.WordLevel({"a": 3, "b": 5}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert encode(tokenizer, "b a b") == [5, 3, 5]
    with pytest.raises(BaseException, match=r"^a panic in \['text'\]$"):
        encode(Failing(), "text")


def test_no_room_for_a_thread_is_no_room(monkeypatch):
    def full(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", full)
    with pytest.raises(MemoryError, match="can't start new thread"):
        encode(Failing(), "text")


def test_it_works_where_the_system_has_no_files_in_memory(monkeypatch, capfd):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with library_errors(CheckpointError, "it fails"):
        pass
    with (
        pytest.raises(CheckpointError, match="it fails: why"),
        library_errors(CheckpointError, "it fails"),
    ):
        raise ValueError("why")
    assert capfd.readouterr().err == ""


def test_a_text_that_takes_too_long_is_given_up(monkeypatch):
    class Endless:
        is_over = False

        def encode_batch_fast(self, texts):
            while not self.is_over:
                pass

    monkeypatch.setattr("rbe_cli.checkpoint.tokenizers_library._SECONDS", 0.0)
    tokenizer = Endless()
    with pytest.raises(TimeoutError, match="it takes too long"):
        encode(tokenizer, "")
    tokenizer.is_over = True
