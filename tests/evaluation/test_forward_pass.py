import numpy as np
import pytest
from reference_gpt2 import block, gpt2, softmax
from small_models import float64, relative_error

from rbe_cli.errors import UsageError
from rbe_cli.evaluation.forward_pass import ForwardPass, forward


@pytest.fixture(scope="module")
def tokens(config):
    return np.random.default_rng(0).integers(0, config.vocab_size, 20)


@pytest.fixture(scope="module")
def expected(checkpoint, tokens):
    """Logits `[n, vocab]` in float64."""
    return gpt2(tokens, float64(checkpoint.tensors), checkpoint.config)


def test_logits_and_loss_are_the_reference_s(model, tokens, expected):
    found = forward(model, tokens, keep_hidden=False)
    assert relative_error(found.logits, expected) < 1e-5
    probabilities = softmax(expected)[np.arange(19), tokens[1:]]
    losses = -np.log(probabilities)
    assert found.loss.value == pytest.approx(losses.mean(), rel=1e-5)
    assert found.loss.error == pytest.approx(losses.std(ddof=1) / np.sqrt(19), rel=1e-5)
    assert found.logprobs() == pytest.approx(np.log(probabilities), rel=1e-4)
    assert found.hidden == {}


def test_hidden_states_are_the_outputs_of_the_blocks(checkpoint, model, tokens):
    hidden = forward(model, tokens, keep_hidden=True).hidden
    tensors, config = float64(checkpoint.tensors), checkpoint.config
    assert list(hidden) == ["h.0", "h.1"]
    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][: len(tokens)]
    for layer in range(config.n_layer):
        x = block(x, layer, tensors, config)
        assert relative_error(hidden[f"h.{layer}"], x) < 1e-5


def test_likeliest_tokens_come_first(model, tokens, expected):
    found = forward(model, tokens, keep_hidden=False).likeliest(5)
    probabilities = softmax(expected)[-1]
    assert [token for token, _ in found] == np.argsort(-probabilities)[:5].tolist()
    assert [p for _, p in found] == pytest.approx(np.sort(probabilities)[:-6:-1], rel=1e-4)


def test_ranks_count_the_likelier_tokens(model, tokens, expected):
    found = forward(model, tokens, keep_hidden=False)
    for i, rank in enumerate(found.ranks()):
        assert rank == 1 + np.sum(expected[i] > expected[i, tokens[i + 1]])


def test_equally_likely_tokens_share_a_rank():
    logits = np.array([[0, 2, 1, 2, 1], [0, 2, 1, 2, 1], [0, 0, 0, 0, 0]], np.float32)
    assert ForwardPass(np.array([0, 3, 4]), logits, {}).ranks().tolist() == [1, 3]


def test_log_probabilities_survive_large_logits():
    logits = np.array([[3e38, -3e38, 0], [-3e38, -3e38, -3e38], [0, 0, 0]], np.float32)
    found = ForwardPass(np.array([0, 0, 2]), logits, {}).logprobs()
    np.testing.assert_allclose(found, [0, -np.log(3)])


def test_all_tokens_have_probability_one(model, tokens, config):
    every = forward(model, tokens, keep_hidden=False).likeliest(10 * config.vocab_size)
    assert sorted(token for token, _ in every) == list(range(config.vocab_size))
    assert sum(p for _, p in every) == pytest.approx(1, abs=1e-5)


def test_equally_likely_tokens_come_in_order():
    logits = np.zeros((1, 9), np.float32)
    logits[0, 4] = 1
    likeliest = ForwardPass(np.array([0]), logits, {}).likeliest(4)
    assert [token for token, _ in likeliest] == [4, 0, 1, 2]


def test_a_single_token_has_no_loss(model):
    found = forward(model, np.array([5]), keep_hidden=True)
    assert found.loss is None
    assert found.hidden["h.1"].shape == (1, 64)
    assert len(found.likeliest(3)) == 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [([1] * 65, "65 tokens are more than"), ([300], "token id 300"), ([], "no tokens")],
)
def test_what_cannot_be_computed_is_refused(model, tokens, message):
    with pytest.raises(UsageError, match=message):
        forward(model, np.array(tokens, np.int64), keep_hidden=False)
