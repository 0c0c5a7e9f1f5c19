"""A lack of memory becomes one sentence with what was needed."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest

from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.engine.load import load_weights
from rbe_cli.errors import BadFileError
from rbe_cli.memory_needs import (
    MemoryNeededError,
    check_available,
    lacks_memory,
    memory_for,
    memory_sentence,
)
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress

SMALLEST = {"n_positions": 4, "n_layer": 1, "n_inner": 4}


def test_a_lack_names_the_task_and_its_size():
    with (
        pytest.raises(MemoryNeededError, match=r"memory to eat: about 12\.0 MB are needed$"),
        memory_for("to eat", 12_000_000),
    ):
        raise MemoryError


def test_a_full_gpu_lacks_memory():
    error = type("CudaAPIError", (Exception,), {})
    assert lacks_memory(error("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"))
    assert not lacks_memory(error("[701] CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"))


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


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with 300 MB of memory and 100 MB of swap space that are free."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=300_000_000))
    monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=100_000_000))


@pytest.mark.usefixtures("little_memory")
def test_what_does_not_fit_is_refused_before_it_begins():
    check_available("to eat", 400_000_000)
    sentence = r"to eat: at least 400\.0 MB are needed, and 400\.0 MB are available$"
    with pytest.raises(MemoryNeededError, match=sentence):
        check_available("to eat", 400_000_001)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("codec", "shape", "least"),
    [
        ("ectcq", (2000, 1 << 21), 64 * 63 * (1 << 17)),  # a 300 kB file of zeros can be this
        ("classic", (1 << 14, 1 << 14), 1 << 30),
        ("float16", (1 << 14, 1 << 14), 1 << 29),
    ],
)
def test_a_small_file_of_a_huge_model_is_refused(codec, shape, least):
    config = SMALLEST | {"vocab_size": shape[1], "n_embd": shape[0], "n_head": 1}
    size = 1 << 29 if codec == "float16" else 100_000
    placed = SimpleNamespace(shape=shape[::-1], codec=codec, size=size)
    container = SimpleNamespace(
        layout=SimpleNamespace(tensors={"wte.weight": placed}),
        tensors={"wte.weight": None},
        config=Gpt2Config(**config),
        file_bytes=size,
    )
    at_least = rf"to load the model: at least {least / 1e6:.1f} MB are needed, and 400\.0 MB are"
    with pytest.raises(MemoryNeededError, match=at_least):
        load_weights(container, 1, no_progress)
    with pytest.raises(MemoryNeededError, match=r"to decode wte\.weight: at least"):
        StoredTensor("wte.weight", shape[::-1], codec, b"").decode()


@pytest.mark.usefixtures("little_memory")
def test_logits_that_do_not_fit_are_refused():
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=1 << 24))
    with pytest.raises(MemoryNeededError, match="for the logits of 8 tokens: at least 536"):
        Gpt2.logits(model, np.zeros((2, 4, 3), np.float32))


def test_errors_that_caused_each_other_end() -> None:
    """A library may set an error's cause to one that it led to; the search must end."""
    first, second = ValueError("first"), OSError("second")
    first.__cause__, second.__cause__ = second, first
    assert memory_sentence(first) is None
    second.__cause__ = MemoryError()
    assert memory_sentence(first) is not None
