from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_gpt2 import block, gpt2, softmax
from small_models import float64, random_tensors

from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import Window, sliding_windows
from rbe_cli.evaluation.evaluate import evaluate, kl_divergence, log_softmax
from rbe_cli.evaluation.means import Mean
from rbe_cli.jobs.workers import workers
from rbe_cli.nn.gpt2 import Gpt2


@pytest.fixture(scope="module")
def other_tensors(checkpoint, config):
    """The checkpoint's, a little changed."""
    change = random_tensors(config, seed=1)
    return {name: t + np.float32(0.05) * change[name] for name, t in checkpoint.tensors.items()}


@pytest.fixture(scope="module")
def other(config, other_tensors, kernels):
    return Gpt2.from_checkpoint(config, other_tensors, kernels)


@pytest.fixture(scope="module")
def windows(config):
    """Of several lengths, some alike, some with predictions not to be counted."""
    rng = np.random.default_rng(0)
    sizes = [(20, 0), (20, 0), (20, 5), (31, 5), (2, 0), (2, 0), (20, 0), (3, 1), (64, 60)]
    return [Window(rng.integers(0, config.vocab_size, n), skipped) for n, skipped in sizes]


def outputs_of_blocks(tokens, tensors, config):
    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][: len(tokens)]
    outputs = []
    for layer in range(config.n_layer):
        x = block(x, layer, tensors, config)
        outputs.append(x)
    return outputs


def test_means_are_those_of_the_obvious_computation(
    checkpoint, model, other, other_tensors, windows, pool, progress
):
    config = checkpoint.config
    ours, theirs = float64(other_tensors), float64(checkpoint.tensors)
    loss, reference_loss, divergence, agrees = [], [], [], []
    errors, norms = np.zeros(config.n_layer), np.zeros(config.n_layer)
    for window in windows:
        counted = range(window.skipped, len(window.tokens) - 1)
        p = softmax(gpt2(window.tokens, theirs, config))  # [n, vocab]
        q = softmax(gpt2(window.tokens, ours, config))
        for i in counted:
            target = window.tokens[i + 1]
            loss.append(-np.log(q[i, target]))
            reference_loss.append(-np.log(p[i, target]))
            divergence.append(np.sum(p[i] * np.log(p[i] / q[i])))
            agrees.append(float(p[i].argmax() == q[i].argmax()))
        pairs = zip(
            outputs_of_blocks(window.tokens, ours, config),
            outputs_of_blocks(window.tokens, theirs, config),
            strict=True,
        )
        for layer, (x, y) in enumerate(pairs):
            errors[layer] += np.sum((x - y) ** 2)
            norms[layer] += np.sum(y**2)

    found = evaluate(other, windows, pool, model, progress)
    counts = [len(window.tokens) - 1 - window.skipped for window in windows]
    assert (found.predictions, found.windows) == (len(loss), len(windows))
    check_mean(found.loss, loss, counts)
    compared = found.comparison
    check_mean(compared.reference_loss, reference_loss, counts)
    check_mean(compared.loss_increase, np.subtract(loss, reference_loss), counts)
    check_mean(compared.kl_divergence, divergence, counts)
    assert compared.kl_divergence.value > 0.001
    assert compared.kl_divergence_p99 == pytest.approx(np.percentile(divergence, 99), rel=1e-4)
    assert compared.kl_divergence_max == pytest.approx(max(divergence), rel=1e-4)
    check_mean(compared.top_1_agreement, agrees, counts)
    assert 0 < compared.top_1_agreement.value < 1
    assert compared.layer_errors == pytest.approx(np.sqrt(errors / norms), rel=1e-4)


def check_mean(found, values, counts):
    """Against the formula of evaluation/means.py, one window after the other."""
    values, total = np.array(values), len(values)
    assert found.value == pytest.approx(values.mean(), rel=1e-4, abs=1e-6)
    squares, start = 0.0, 0
    for count in counts:
        own = values[start : start + count]
        squares += (own.sum() - count * values.mean()) ** 2
        start += count
    units = len(counts)
    assert start == total
    expected = np.sqrt(units / (units - 1) * squares) / total
    assert found.error == pytest.approx(expected, rel=1e-3)


def test_a_model_does_not_differ_from_itself(model, windows, pool):
    found = evaluate(model, windows, pool, model)
    compared = found.comparison
    assert compared.kl_divergence == Mean(0.0, 0.0)
    assert (compared.kl_divergence_p99, compared.kl_divergence_max) == (0.0, 0.0)
    assert compared.reference_loss == found.loss
    assert compared.loss_increase == Mean(0.0, 0.0)
    assert compared.top_1_agreement == Mean(1.0, 0.0)
    assert compared.layer_errors == [0, 0]


def test_without_a_reference_there_is_nothing_to_compare(model, windows, pool):
    found = evaluate(model, windows, pool)
    assert found.loss == evaluate(model, windows, pool, model).loss
    assert found.comparison is None
    with pytest.raises(UsageError, match="no reference"):
        found.compared()


def test_a_small_difference_is_not_lost_in_rounding(checkpoint, model, config, windows, pool):
    """Of one bias, changed by so little that float32 log-probabilities would hide it."""
    changed = dict(checkpoint.tensors)
    changed["ln_f.bias"] = changed["ln_f.bias"] + np.float32(1e-5)
    other = Gpt2.from_checkpoint(config, changed, model.kernels)
    divergence = []
    for window in windows:
        p, q = (
            softmax(gpt2(window.tokens, float64(tensors), config))[window.skipped : -1]
            for tensors in (checkpoint.tensors, changed)
        )
        divergence += np.sum(p * np.log(p / q), axis=-1).tolist()
    found = evaluate(other, windows, pool, model).comparison.kl_divergence
    assert np.mean(divergence) < 1e-8
    assert found.value == pytest.approx(np.mean(divergence), rel=0.02)


def test_results_do_not_depend_on_the_threads(model, other, windows):
    def measured(threads):
        with workers(threads) as pool:
            return evaluate(other, windows * 5, pool, model)

    assert measured(1) == measured(2) == measured(3)


@pytest.mark.parametrize("windows", [[], [Window(np.array([3]))], [Window(np.array([3, 4]), 1)]])
def test_nothing_to_predict_is_refused(model, pool, windows):
    with pytest.raises(UsageError, match="nothing to predict"):
        evaluate(model, windows, pool)


@given(
    lengths=st.lists(st.integers(0, 60), max_size=4),
    context=st.integers(2, 30),
    stride=st.integers(1, 30),
)
def test_each_prediction_is_counted_in_one_window(lengths, context, stride):
    """Of a window's first token there is none: windows without overlap leave it out."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    sequences = [np.arange(a, b) for a, b in pairwise(starts)]
    windows = sliding_windows(sequences, context, stride)
    counted = []
    for window in windows:
        assert 2 <= len(window.tokens) <= context
        np.testing.assert_array_equal(np.diff(window.tokens), 1)
        assert 0 <= window.skipped < len(window.tokens) - 1
        counted += window.tokens[window.skipped + 1 :].tolist()
    assert len(counted) == len(set(counted))
    predictable = {token for sequence in sequences for token in sequence.tolist()[1:]}
    if stride < context:
        assert set(counted) == predictable
    else:
        first = {s for q in sequences for s in q.tolist()[::stride]}
        beyond = {t for q in sequences for t in q.tolist() if (t - q[0]) % stride >= context}
        assert set(counted) == predictable - first - beyond


@given(length=st.integers(2, 60), context=st.integers(2, 30), stride=st.integers(1, 29))
def test_a_prediction_has_as_much_context_as_the_stride_allows(length, context, stride):
    for window in sliding_windows([np.arange(length)], context, min(stride, context - 1)):
        if window.tokens[0] > 0:
            assert window.skipped == context - 1 - min(stride, context - 1)


def test_a_text_within_the_context_is_one_window():
    (window,) = sliding_windows([np.arange(9)], 9, 4)
    assert (window.tokens.tolist(), window.skipped) == (list(range(9)), 0)


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100))
def test_divergence_is_that_of_the_probabilities(seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (2, 3, 50)).astype(np.float32)
    known, found = log_softmax(logits), log_softmax(rng.permutation(logits, axis=-1))
    assert np.exp(known.astype(np.float64)).sum(axis=-1) == pytest.approx(1, abs=1e-5)
    p, q = known.astype(np.float64), found.astype(np.float64)
    divergence = kl_divergence(known, found)
    assert divergence.shape == (2, 3)
    assert divergence.dtype == np.float64
    np.testing.assert_allclose(
        divergence, np.sum(np.exp(p) * (p - q), axis=-1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(kl_divergence(known, known), 0)


def test_log_softmax_survives_large_logits():
    logits = np.array([[1e30, 0, -1e30], [-3e38, -3e38, -3e38]], np.float32)
    with np.errstate(over="ignore"):
        found = log_softmax(logits)
    np.testing.assert_array_equal(np.exp(found[0]), [1, 0, 0])
    np.testing.assert_allclose(found[1], -np.log(3), rtol=1e-6)
