import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_gpt2 import gpt2, softmax
from small_models import float64, random_tensors, small_config
from small_tokenizer import SENTENCES

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression import text_writer
from rbe_cli.compression.calibration import (
    WINDOW,
    default_samples,
    from_model,
    from_text,
    from_token_file,
)
from rbe_cli.engine.paged_cache import cache_bytes
from rbe_cli.errors import BadFileError, NotFoundError, UsageError
from rbe_cli.evaluation.batching import batches, windows
from rbe_cli.jobs.workers import workers
from rbe_cli.progress import no_progress
from rbe_cli.text.tokenizer import Tokenizer


@pytest.fixture
def numbered(tmp_path, config):
    """Write a token file of 100 windows, each of which repeats its own number."""
    path = tmp_path / "numbered.npy"
    np.save(path, np.repeat(np.arange(100), config.n_positions))
    return path


def numbers(sequences):
    """Return which windows of the numbered file these are."""
    for sequence in sequences:
        np.testing.assert_array_equal(sequence, np.full(64, sequence[0]))
    return [int(sequence[0]) for sequence in sequences]


# Cutting


@given(length=st.integers(1, 20), tokens=arrays(np.int64, st.integers(0, 90)))
def test_windows_are_whole_and_consecutive(length, tokens):
    found = windows(tokens, length)
    if len(tokens) < length:
        np.testing.assert_array_equal(found, [tokens])
    else:
        assert len(found) == len(tokens) // length
        np.testing.assert_array_equal(np.concatenate(found), tokens[: len(found) * length])


@given(lengths=st.lists(st.sampled_from([1, 2, 2, 2, 700, 3000]), max_size=12))
def test_batches_keep_the_order_and_bound_the_size(lengths):
    sequences = [np.full(length, number) for number, length in enumerate(lengths)]
    found = list(batches(sequences))
    rows = [row for batch in found for row in batch]
    assert [row.tolist() for row in rows] == [sequence.tolist() for sequence in sequences]
    for batch in found:
        assert len(batch) == 1 or batch.size <= 2048
    for batch, after in pairwise(found):  # no batch could take in the next one
        alike = batch.shape[1] == after.shape[1]
        assert not alike or batch.size + batch.shape[1] > 2048


# Text and token files


@pytest.mark.parametrize(
    ("samples", "used", "held_out"), [(1, 1, 1), (8, 8, 1), (16, 16, 2), (80, 80, 10)]
)
def test_as_many_windows_as_asked_for_and_some_more_are_held_out(
    checkpoint, numbered, samples, used, held_out
):
    found = from_token_file(checkpoint, numbered, samples, seed=0)
    assert (len(found.used), len(found.held_out)) == (used, held_out)
    assert found.description == "tokens numbered.npy"
    chosen = numbers(found.used) + numbers(found.held_out)
    assert len(set(chosen)) == len(chosen)


def test_larger_models_are_calibrated_on_fewer_sequences_by_default():
    gpt2_124m = small_config(
        vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=3072
    )
    assert (default_samples(small_config()), default_samples(gpt2_124m)) == (128, 48)
    assert default_samples(gpt2_124m, tunes=True) == 4 * 48


@pytest.mark.parametrize("samples", [100, 1000])
def test_of_fewer_windows_all_are_taken(checkpoint, numbered, samples):
    found = from_token_file(checkpoint, numbered, samples, seed=0)
    assert sorted(numbers(found.used + found.held_out)) == list(range(100))
    assert len(found.held_out) == 100 // 9


def test_windows_are_drawn_by_the_seed(checkpoint, numbered):
    def drawn(seed):
        found = from_token_file(checkpoint, numbered, 30, seed)
        return numbers(found.used), numbers(found.held_out)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1)[0] != sorted(drawn(1)[0])


def test_each_sequence_of_a_token_file_is_cut_by_itself(checkpoint, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("1 2 3\n" + 130 * "4 " + "\n5\n6 7\n")
    found = from_token_file(checkpoint, path, 50, seed=0)
    sequences = sorted(sequence.tolist() for sequence in found.used + found.held_out)
    assert sequences == [[1, 2, 3], 64 * [4], 64 * [4], [6, 7]]


def test_a_text_is_cut_into_windows(checkpoint, tmp_path):
    path = tmp_path / "words.txt"
    text = " ".join(SENTENCES * 30)
    path.write_text(text)
    found = from_text(checkpoint, path, 1000, seed=0)
    assert found.description == "text words.txt"
    tokens = Tokenizer(checkpoint.tokenizer_json, 300).encode(text)
    expected = sorted(window.tolist() for window in windows(tokens, 64))
    assert sorted(window.tolist() for window in found.used + found.held_out) == expected


def test_a_window_fits_the_context(tmp_path, pool, new_folder):
    """The length is the model's context, but at most `WINDOW`."""
    path = tmp_path / "long.npy"
    np.save(path, np.zeros(2000, np.int64))
    for n_positions, length in [(10, 10), (WINDOW + 50, WINDOW)]:
        config = small_config(n_positions=n_positions, n_layer=1, n_embd=6)
        tensors = random_tensors(config)
        checkpoint = Checkpoint(config, tensors, None, "", "", 0)
        found = from_token_file(checkpoint, path, 3, seed=0)
        assert {len(sequence) for sequence in found.used} == {length}
        written = from_model(checkpoint, 1, 0, pool, new_folder(), no_progress)
        assert {len(sequence) for sequence in written.used} == {length}


@pytest.mark.parametrize("content", ["", "a", "Too short.", "b" * 100])
def test_a_text_without_two_windows_is_refused(checkpoint, tmp_path, content):
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"text short\.txt is too short"):
        from_text(checkpoint, path, 10, seed=0)


def test_tokens_without_two_windows_are_refused(checkpoint, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("1\n2\n3 4\n")
    with pytest.raises(UsageError, match=r"tokens short\.txt is too short"):
        from_token_file(checkpoint, path, 10, seed=0)


def test_a_text_needs_a_tokenizer(checkpoint, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("words")
    with pytest.raises(UsageError, match="`calib_tokens`"):
        from_text(dataclasses.replace(checkpoint, tokenizer_json=None), path, 10, seed=0)


def test_files_are_checked(checkpoint, tmp_path):
    binary, outside = tmp_path / "binary.txt", tmp_path / "outside.txt"
    binary.write_bytes(b"\xff\xfe")
    outside.write_text("1 300 2")
    with pytest.raises(NotFoundError):
        from_text(checkpoint, tmp_path / "no.txt", 10, seed=0)
    with pytest.raises(BadFileError):
        from_text(checkpoint, binary, 10, seed=0)
    with pytest.raises(UsageError, match="token id 300"):
        from_token_file(checkpoint, outside, 10, seed=0)


# What the model writes


@pytest.mark.parametrize(("samples", "held_out"), [(1, 1), (20, 2), (80, 10)])
def test_the_model_writes_as_many_sequences_as_asked_for(
    checkpoint, pool, new_folder, progress, samples, held_out
):
    found = from_model(checkpoint, samples, 0, pool, new_folder(), progress)
    assert (len(found.used), len(found.held_out)) == (samples, held_out)
    written = np.array(found.used + found.held_out)
    assert written.dtype == np.int64
    assert written.shape == (samples + held_out, 64)
    assert written.min() >= 0
    assert written.max() < 300
    assert len(np.unique(written, axis=0)) == len(written)


def test_what_the_model_writes_follows_from_the_seed_alone(checkpoint, new_folder):
    def written(threads, seed):
        with workers(threads) as pool:
            found = from_model(checkpoint, 60, seed, pool, new_folder(), no_progress)
        return np.array(found.used + found.held_out)

    first = written(1, seed=3)
    np.testing.assert_array_equal(written(2, seed=3), first)
    np.testing.assert_array_equal(written(5, seed=3), first)
    assert (written(2, seed=4) != first).mean() > 0.5


def test_what_was_written_before_is_not_written_again(checkpoint, pool, folder, monkeypatch):
    first = from_model(checkpoint, 80, 0, pool, folder, no_progress)
    folder.discard("text-1")
    written = []
    monkeypatch.setattr(text_writer, "write", spy(written, text_writer.write))
    again = from_model(checkpoint, 80, 0, pool, folder, no_progress)
    assert len(written) == 1
    np.testing.assert_array_equal(again.used, first.used)
    np.testing.assert_array_equal(again.held_out, first.held_out)


def test_few_sequences_are_written_together_if_their_cache_is_large(
    checkpoint, pool, folder, monkeypatch
):
    of_one = cache_bytes(checkpoint.config, 1, "fp16", 64)
    monkeypatch.setattr("rbe_cli.compression.calibration._CACHE_BYTES", 5 * of_one)
    written = []
    monkeypatch.setattr(text_writer, "write", spy(written, text_writer.write))
    found = from_model(checkpoint, 16, 0, pool, folder, no_progress)
    assert sorted(rows for _, rows, *_ in written) == [4, 4, 5, 5]
    assert len(found.used) + len(found.held_out) == 18


def spy(calls, function):
    """Return the function, changed so that its arguments are recorded."""

    def run(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return run


def test_the_model_writes_at_temperature_one(checkpoint, pool, new_folder):
    """The mean surprise of tokens drawn from a distribution equals the distribution's entropy."""
    tensors, config = float64(checkpoint.tensors), checkpoint.config
    surprise, entropy = [], []
    for tokens in from_model(checkpoint, 70, 0, pool, new_folder(), no_progress).used:
        probabilities = softmax(gpt2(tokens, tensors, config))[:-1]  # [n - 1, vocab]
        surprise.append(-np.log(probabilities[np.arange(63), tokens[1:]]))
        entropy.append(-np.sum(probabilities * np.log(probabilities), axis=-1))
    difference = np.array(surprise) - entropy
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(difference.size)
    assert np.mean(entropy) < np.log(300) - 0.3  # far from drawing at random
