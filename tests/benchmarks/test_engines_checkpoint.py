"""The random checkpoint, and what is made ready before the engines run."""

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import small_config

from benchmarks.engines.job import CHECKED_TOKENS, some_tokens
from benchmarks.engines.prepare import check_config, prepare
from benchmarks.engines.random_checkpoint import (
    GAINS,
    GPT2_124M,
    MATRICES,
    TOKEN_PRIOR,
    random_tensors,
    write_random,
)
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import parameter_count

CONFIG = small_config(n_positions=512, n_layer=1)


def test_the_default_is_gpt2_of_124_million_parameters():
    assert parameter_count(GPT2_124M) == 124_439_808


def test_the_same_seed_gives_the_same_tensors():
    first, again, other = (random_tensors(CONFIG, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


def test_weights_are_spread_as_in_trained_models():
    tensors = random_tensors(CONFIG, 0)
    matrix = tensors["h.0.mlp.c_fc.weight"]
    own = MATRICES["mlp.c_fc"]
    assert matrix.std() * np.sqrt(len(matrix)) == pytest.approx(own.gain, rel=0.05)
    columns = np.log2(np.sqrt(np.mean(tensors["h.0.attn.c_attn.weight"] ** 2, 0)))
    assert columns.std() == pytest.approx(MATRICES["attn.c_attn"].outputs, rel=0.3)
    assert tensors["h.0.ln_1.weight"].mean() == pytest.approx(GAINS["ln_1"].mean, rel=0.1)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_some_tokens_are_more_frequent_whatever_the_context():
    tensors = random_tensors(CONFIG, 0)
    logits = tensors["wte.weight"] @ tensors["ln_f.bias"]
    assert logits.std() == pytest.approx(TOKEN_PRIOR, rel=0.25)


def test_the_folder_is_a_checkpoint(tmp_path):
    write_random(CONFIG, 0, tmp_path / "random")
    checkpoint = open_checkpoint(str(tmp_path / "random"))
    assert checkpoint.config == CONFIG
    assert np.array_equal(checkpoint.tensors["wpe.weight"], random_tensors(CONFIG, 0)["wpe.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["random"]


def test_the_reference_is_that_of_the_tests(tmp_path):
    write_random(CONFIG, 0, tmp_path / "random")
    found = prepare(str(tmp_path / "random"), tmp_path, seed=0)
    tokens = np.array(some_tokens(CHECKED_TOKENS, CONFIG.vocab_size))
    expected = gpt2(tokens, random_tensors(CONFIG, 0), CONFIG)[-1]
    assert found["vocab_size"] == CONFIG.vocab_size
    assert np.array_equal(np.load(f"{found['folder']}/reference.npy"), expected)


def test_tokens_lie_in_the_vocabulary_and_differ():
    tokens = some_tokens(512, 50257)
    assert len(set(tokens)) == 512
    assert max(tokens) < 50257


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_positions": 511}, "context of 511 tokens is shorter than the 512"),
        ({"activation_function": "relu"}, "activation relu"),
        ({"scale_attn_weights": False}, "not scaled"),
    ],
)
def test_a_model_that_cannot_be_compared_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        check_config(small_config(**{"n_positions": 512} | changes))
