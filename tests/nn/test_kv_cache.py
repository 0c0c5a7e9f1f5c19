import numpy as np
import pytest
from small_models import as_panels, random_tensors, relative_error, small_config

from rbe_cli.errors import UsageError
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache


@pytest.fixture(scope="module", params=["dense", "panels"])
def model(request, kernels):
    config = small_config()
    tensors = random_tensors(config)
    if request.param == "dense":
        return Gpt2.from_checkpoint(config, tensors, kernels)
    return Gpt2(config, as_panels(tensors, 127)[0], kernels)


def test_cached_decoding_equals_the_full_forward(model):
    """64 steps of two rows that hold different numbers of tokens."""
    config = model.config
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 90))
    full = model.forward(tokens)  # [2, 90, vocab]
    cache, lengths = KVCache(config, 2), np.array([3, 20])
    for row in (0, 1):
        prompt = tokens[row : row + 1, : lengths[row]]
        logits = model.forward(prompt, cache, np.array([row]), last_only=True)
        assert relative_error(logits[0], full[row, lengths[row] - 1]) < 1e-5
    rows = np.arange(2)
    for _ in range(64):
        logits = model.forward(tokens[rows, lengths][:, None], cache, rows, last_only=True)
        assert relative_error(logits, full[rows, lengths]) < 1e-5
        lengths = lengths + 1
    np.testing.assert_array_equal(cache.lengths, lengths)


def test_prefill_in_pieces_equals_the_full_forward(model):
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, 30))
    full, cache = model.forward(tokens), KVCache(model.config, 2)
    for start, stop in ((0, 7), (7, 8), (8, 30)):
        logits = model.forward(tokens[:, start:stop], cache)
        assert relative_error(logits, full[:, start:stop]) < 1e-5


def test_rows_are_independent_and_can_be_reset(model):
    tokens = np.random.default_rng(2).integers(0, model.config.vocab_size, (1, 12))
    expected = model.forward(tokens, last_only=True)
    cache = KVCache(model.config, 3)
    model.forward(np.repeat(tokens, 2, axis=0)[:, ::-1], cache, np.array([2, 0]))
    cache.reset(2)
    logits = model.forward(tokens, cache, np.array([2]), last_only=True)
    assert relative_error(logits, expected) < 1e-5
    np.testing.assert_array_equal(cache.lengths, [12, 0, 12])


def test_a_full_row_is_refused_and_unchanged(model):
    limit = model.config.n_positions
    cache = KVCache(model.config, 1)
    model.forward(np.ones((1, limit), np.int64), cache)
    with pytest.raises(UsageError, match=f"{limit + 1} tokens are more than"):
        model.forward(np.ones((1, 1), np.int64), cache)
    assert cache.lengths[0] == limit


def test_memory_follows_the_tokens():
    config = small_config(n_positions=1000)
    cache = KVCache(config, 2)
    assert cache.nbytes == 0
    one_position = 2 * 2 * config.n_layer * config.n_embd * 4  # keys, values; rows; float32
    for length, capacity in ((1, 128), (127, 128), (2, 256), (840, 1000)):
        rows = np.array([1])
        cache.layers(rows, length)
        cache.advance(rows, length)
        assert cache.nbytes == capacity * one_position
