"""A lack of memory becomes one sentence with what was needed."""

import errno
import os

import numpy as np
import pytest

from rbe_cli.errors import BadFileError
from rbe_cli.memory_needs import MemoryNeededError, lacks_memory, memory_for, memory_sentence


def test_a_lack_names_the_task_and_its_size():
    with (
        pytest.raises(MemoryNeededError, match=r"memory to eat: about 12\.0 MB are needed$"),
        memory_for("to eat", 12_000_000),
    ):
        raise MemoryError


def test_an_array_that_did_not_fit_has_its_own_size():
    with (
        pytest.raises(MemoryNeededError, match=r"needed, 9007199254\.7 MB of it in one piece$"),
        memory_for("to eat", 1),
    ):
        np.empty(1 << 50)


def test_the_whole_task_is_named():
    with (
        pytest.raises(MemoryNeededError, match=r"to eat: .* piece$"),
        memory_for("to eat", 1),
        memory_for("to chew", 1),
    ):
        np.empty(1 << 50)


def taken_for_a_bad_file():
    try:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    except OSError as error:
        raise BadFileError("x cannot be read") from error


def test_a_lack_that_was_taken_for_something_else_is_found():
    with pytest.raises(MemoryNeededError, match="to eat") as caught, memory_for("to eat", 1):
        taken_for_a_bad_file()
    assert isinstance(caught.value.__cause__, BadFileError)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("no"), KeyError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, memory_for("to eat", 1):
        raise error
    assert caught.value is error
    assert memory_sentence(error) is None
    assert not lacks_memory(error)
