import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbe_cli.codec import scales
from rbe_cli.codec.entropy_model import LEVELS_PER_OCTAVE, entropy_tables
from rbe_cli.codec.feedback import RATE_WEIGHT, Feedback, quantise
from rbe_cli.codec.matrix import EncodedMatrix, encode_block
from rbe_cli.codec.trellis import STATES, quantise_row

TABLES = entropy_tables()


def correlated_hessian(rows, seed, rank=None, decay=1.0):
    """X^T X / n, float32 `[rows, rows]`, of inputs whose spectrum falls as 1 / k ** decay."""
    rng = np.random.default_rng(seed)
    rank = rows if rank is None else rank
    spectrum = np.arange(1, rank + 1.0) ** -decay
    basis, _ = np.linalg.qr(rng.normal(size=(rows, rows)))
    inputs = rng.normal(size=(8 * rows, rank)) * spectrum @ basis[:rank]
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


def random_weights(rows, columns, seed):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def encoded(weights, feedback, step):
    block = encode_block(weights, feedback, step)
    return EncodedMatrix(weights.shape, float(np.float32(step)), (block,))


def output_error(weights, matrix, hessian):
    """Mean squared output, summed over outputs, of what encoding changed."""
    change = (weights - matrix.decode()).astype(np.float64)
    return np.sum(change * (hessian.astype(np.float64) @ change))


@given(rows=st.integers(1, 60), rank=st.integers(1, 60), seed=st.integers(0, 99))
def test_factors_reproduce_the_damped_hessian(rows, rank, seed):
    hessian = correlated_hessian(rows, seed, min(rank, rows))
    feedback = Feedback.from_hessian(hessian)
    assert sorted(feedback.order) == list(range(rows))
    assert (np.diff(np.diag(hessian)[feedback.order]) >= 0).all()
    np.testing.assert_array_equal(feedback.lower, np.tril(feedback.lower))
    np.testing.assert_array_equal(np.diag(feedback.lower), 1)
    lower = feedback.lower.astype(np.float64)
    product = (lower * feedback.diagonal) @ lower.T
    damped = hessian.astype(np.float64) + feedback.damping * np.eye(rows)
    difference = product - damped[np.ix_(feedback.order, feedback.order)]
    assert np.abs(difference).max() <= 1e-6 * np.diag(damped).max()
    assert 0 < feedback.damping <= 0.05 * np.diag(hessian).mean()


@given(rows=st.integers(1, 60), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_output_power_is_that_of_the_hessian(rows, columns, seed):
    hessian, change = correlated_hessian(rows, seed), random_weights(rows, columns, seed)
    expected = np.sum(change * (hessian.astype(np.float64) @ change))
    found = Feedback.from_hessian(hessian).output_power(change)
    # What was added to H is taken off again: the error is relative to their sum.
    assert abs(found - expected) <= 1e-5 * np.diag(hessian).mean() * np.sum(change**2)


@given(
    rows=st.integers(1, 100),
    columns=st.integers(1, 20),
    seed=st.integers(0, 99),
    equal=st.booleans(),
)
@settings(max_examples=30)
def test_uncorrelated_inputs_feed_nothing_back(rows, columns, seed, equal):
    """Only the order of the rows differs, and rows are quantised each by itself."""
    weights = random_weights(rows, columns, seed)
    variances = np.ones(rows) if equal else np.random.default_rng(seed).uniform(0.1, 9, rows)
    feedback = Feedback.from_hessian(np.diag(variances).astype(np.float32))
    levels = scales.column_levels(weights)
    with_feedback = quantise(weights, feedback, 0.25, levels)
    without = quantise(weights, None, 0.25, levels)
    for ours, theirs in zip(with_feedback, without, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("step", [1.0, 0.25, 0.06])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_feedback_lowers_the_output_s_error(step, decay):
    weights, hessian = random_weights(150, 100, 0), correlated_hessian(150, 0, decay=decay)
    plain = encoded(weights, None, step)
    fed_back = encoded(weights, Feedback.from_hessian(hessian), step)
    saved = output_error(weights, plain, hessian) / output_error(weights, fed_back, hessian)
    bits = 8 * (fed_back.nbytes - plain.nbytes) / weights.size
    assert saved > 1.5 * 4**bits  # a bit a weight divides squared errors by 4


def test_feedback_does_not_change_what_is_asked_for():
    weights = random_weights(70, 20, 0)
    original = weights.copy()
    quantise(weights, Feedback.from_hessian(correlated_hessian(70, 0)), 0.5, np.zeros(20, np.int16))
    np.testing.assert_array_equal(weights, original)


@pytest.mark.parametrize(
    "hessian",
    [
        np.zeros((70, 70)),
        np.ones((70, 70)),
        np.diag(np.arange(70) % 2),
        1e37 * correlated_hessian(70, 0, 3),
        1e-37 * correlated_hessian(70, 0, 3),
        correlated_hessian(70, 0, decay=6),
        np.diag(np.logspace(-30, 30, 70)),
    ],
    ids=["zero", "rank 1", "dead inputs", "huge", "tiny", "ill-conditioned", "spread"],
)
def test_any_second_moment_can_be_used(hessian):
    hessian = hessian.astype(np.float32)
    feedback = Feedback.from_hessian(hessian)
    assert np.isfinite(feedback.lower).all()
    weights = random_weights(70, 30, 0)
    matrix = encoded(weights, feedback, 2**-6)
    # Feedback moves weights, but only as far as the errors that it answers.
    assert np.abs(weights - matrix.decode()).max() < 1
    plain = output_error(weights, encoded(weights, None, 2**-6), hessian)
    assert output_error(weights, matrix, hessian) <= 1.1 * plain


def ldlq(weights, feedback, step, column_levels):
    """The recursion as it is written down, a row at a time."""
    rows, width = weights.shape
    errors, integers = np.zeros(weights.shape), np.empty(weights.shape, np.int32)
    for i in range(rows - 1, -1, -1):
        row = feedback.order[i]
        target = weights[row] + feedback.lower[i + 1 :, i] @ errors[i + 1 :]  # [width]
        relative = target / step * 2.0 ** (-column_levels / LEVELS_PER_OCTAVE)
        level = LEVELS_PER_OCTAVE * np.log2(np.sqrt(max(np.mean(relative**2), 1e-12)))
        quantise_row(
            (target / step).astype(np.float32),
            int(np.rint(level)),
            column_levels,
            RATE_WEIGHT,
            TABLES.bits,
            TABLES.shift,
            np.empty((width, 4), np.int32),
            np.empty((width, STATES), np.uint8),
            integers[row],
        )
        errors[i] = weights[row] - step * integers[row]
    return integers


@settings(max_examples=40)
@given(
    rows=st.integers(1, 150),
    columns=st.integers(1, 6),
    octave=st.integers(-4, 1),
    seed=st.integers(0, 999),
)
def test_integers_are_those_of_the_plain_recursion(rows, columns, octave, seed):
    """All numbers are small multiples of powers of two, so that no sum is ever rounded."""
    rng = np.random.default_rng(seed)
    weights = (rng.integers(-200, 200, (rows, columns)) / 64).astype(np.float32)
    below = np.tril(rng.integers(-2, 3, (rows, rows)) / 8, -1)
    lower = (below * (rng.random((rows, rows)) < 0.1) + np.eye(rows)).astype(np.float32)
    feedback = Feedback(rng.permutation(rows), lower, np.ones(rows, np.float32), 0.0)
    levels = rng.integers(-8, 9, columns).astype(np.int16)
    found, _ = quantise(weights, feedback, 2.0**octave, levels)
    np.testing.assert_array_equal(found, ldlq(weights, feedback, 2.0**octave, levels))


@given(rows=st.integers(1, 80), columns=st.integers(20, 60), seed=st.integers(0, 99))
def test_levels_are_the_rows_own_scales(rows, columns, seed):
    spread = np.random.default_rng(seed).uniform(-4, 4, rows)
    weights = random_weights(rows, columns, seed) * np.exp2(spread)[:, None].astype(np.float32)
    _, levels = quantise(weights, None, 0.5, np.zeros(columns, np.int16))
    root_mean_square = np.sqrt(np.mean((weights.astype(np.float64) / 0.5) ** 2, axis=1))
    assert np.abs(levels - LEVELS_PER_OCTAVE * np.log2(root_mean_square)).max() <= 0.51
