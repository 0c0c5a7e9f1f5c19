"""Test the factors of second moments that error feedback uses, for any moment."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from second_moments import correlated, output_factor, random_weights

from rbe_cli.algebra.factors import cholesky_in_place
from rbe_cli.codec.column_blocks import SEGMENT
from rbe_cli.codec.ectcq.error_feedback import (
    quantise,
)
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.codec.error_cost import ErrorCost, InputFactor, OutputFactor, damped_cholesky

DAMPING = st.sampled_from([1e-3, 0.02, 0.5])


def damped(moment, damping):
    """Return the moment with `damping` times its mean diagonal added, float64."""
    moment = moment.astype(np.float64)
    return moment + damping * np.diag(moment).mean() * np.eye(len(moment))


@given(
    rows=st.integers(1, 60), rank=st.integers(1, 60), seed=st.integers(0, 99), damping=DAMPING
)  # fmt: skip
def test_an_input_factor_reproduces_the_damped_moment(rows, rank, seed, damping):
    moment = correlated(rows, seed, min(rank, rows))
    factor = InputFactor.from_moment(moment, damping)
    assert sorted(factor.order) == list(range(rows))
    assert (np.diff(np.diag(moment)[factor.order]) >= 0).all()
    np.testing.assert_array_equal(factor.lower, np.tril(factor.lower))
    np.testing.assert_array_equal(np.diag(factor.lower), 1)
    lower = factor.lower.astype(np.float64)
    expected = damped(moment, damping)[np.ix_(factor.order, factor.order)]
    difference = (lower * factor.diagonal) @ lower.T - expected
    assert np.abs(difference).max() <= 1e-6 * np.diag(expected).max()
    assert factor.damping == pytest.approx(damping * np.diag(moment).mean())


@given(
    size=st.sampled_from([1, 2, 127, 128, 129, 300]),
    decay=st.sampled_from([0.0, 1.0, 2.0]),
    seed=st.integers(0, 99),
)
def test_a_matrix_is_factored_in_place(size, decay, seed):
    matrix = damped(correlated(size, seed, decay=decay), 1e-3)
    factor = np.triu(np.full((size, size), np.nan), 1) + np.tril(matrix)  # the rest is not read
    cholesky_in_place(factor)
    np.testing.assert_array_equal(factor, np.tril(factor))
    np.testing.assert_allclose(factor @ factor.T, matrix, atol=1e-13 * np.diag(matrix).max())
    expected = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(factor, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1, 128, 200])
def test_an_indefinite_matrix_is_not_factored(size):
    matrix = np.eye(size)
    matrix[-1, -1] = -1e-9
    with pytest.raises(np.linalg.LinAlgError):
        cholesky_in_place(matrix)


@given(
    rows=st.integers(1, 60) | st.just(300), columns=st.integers(1, 9), seed=st.integers(0, 99)
)  # fmt: skip
def test_output_power_is_that_of_the_moment(rows, columns, seed):
    moment, change = correlated(rows, seed), random_weights(rows, columns, seed)
    expected = np.sum(change * (moment.astype(np.float64) @ change))
    found = InputFactor.from_moment(moment, 0.05).output_power(change)
    # What was added to H is taken off again: the error is relative to their sum.
    assert abs(found - expected) <= 1e-5 * np.diag(moment).mean() * np.sum(change**2)
    assert InputFactor.identity(rows).output_power(change) == pytest.approx(np.sum(change**2))


@given(
    columns=st.integers(1, 4 * SEGMENT), rank=st.integers(1, 60), seed=st.integers(0, 99),
    damping=DAMPING,
)  # fmt: skip
def test_an_output_factor_reproduces_the_damped_moment(columns, rank, seed, damping):
    """G = M C M^T holds in the trellis's order, with C block diagonal in the segments."""
    moment = correlated(columns, seed, min(rank, columns))
    factor = output_factor(moment, damping)
    order, segment = factor.order, np.arange(columns) // SEGMENT
    mixed = segment[:, None] < segment
    np.testing.assert_array_equal(factor.mixing[~mixed], 0)
    assert factor.mixing.dtype == np.float32
    assert factor.diagonal.dtype == np.float64

    unit = np.eye(columns) + factor.mixing  # M, unit upper triangular: it changes later columns
    expected = damped(moment, damping)[np.ix_(order, order)]
    inverse = np.linalg.inv(unit)
    blocks = inverse @ expected @ inverse.T  # C, were M exact
    largest = np.diag(expected).max()
    assert np.abs(blocks[segment[:, None] != segment]).max(initial=0.0) <= 1e-5 * largest
    np.testing.assert_allclose(factor.diagonal[order], np.diag(blocks), atol=1e-5 * largest)
    blocks[segment[:, None] != segment] = 0
    assert np.abs(unit @ blocks @ unit.T - expected).max() <= 1e-5 * largest


@given(size=st.integers(1, 80), rank=st.integers(1, 60), seed=st.integers(0, 99), damping=DAMPING)
def test_factors_give_the_damped_moments_back(size, rank, seed, damping):
    """Both are relative to the mean of D or C."""
    moment = correlated(size, seed, min(rank, size))
    levels = np.random.default_rng(seed).integers(-9, 9, size).astype(np.int16)
    for factor in (
        InputFactor.from_moment(moment, damping),
        OutputFactor.from_moment(moment, damping, levels, together=1),
    ):
        expected = damped(moment, damping) / factor.diagonal.mean()
        found, diagonal = factor.moment()
        assert np.abs(found - expected).max() <= 1e-5 * np.diag(expected).max()
        np.testing.assert_array_equal(diagonal, np.diag(found))


def test_a_diagonal_moment_is_given_back_as_its_diagonal():
    moment, diagonal = OutputFactor.from_importance(np.array([1.0, 2.0, 6.0])).moment()
    assert moment.shape == (0, 0)
    np.testing.assert_allclose(diagonal, [1 / 3, 2 / 3, 2])
    assert InputFactor.identity(4).moment()[1].tolist() == [1, 1, 1, 1]


def test_an_output_factor_s_segments_are_left_only_what_later_ones_cannot_mend():
    """C_n is at most G_nn, and less if columns of later segments are correlated with column n."""
    moment = correlated(2 * SEGMENT, 0)
    factor = output_factor(moment, 0.01)
    whole = np.diag(damped(moment, 0.01))
    first, last = np.split(factor.order, 2)
    assert (factor.diagonal[first] < 0.9 * whole[first]).all()
    np.testing.assert_allclose(factor.diagonal[last], whole[last], rtol=1e-5)


@given(columns=st.integers(1, 100), seed=st.integers(0, 99))
def test_a_diagonal_moment_is_an_importance(columns, seed):
    importance = np.random.default_rng(seed).uniform(0.1, 9, columns)
    moment = np.diag(importance - 0.05).astype(np.float32)
    factor = output_factor(moment, 0.05 / np.diag(moment).mean(dtype=np.float64))
    assert not factor.mixing.any()
    plain = OutputFactor.from_importance(importance)
    assert plain.mixing.size == 0
    np.testing.assert_allclose(factor.diagonal, plain.diagonal, rtol=1e-5)
    np.testing.assert_array_equal(plain.diagonal, importance)


# Moments that no trained model has, or few


DEGENERATE = st.sampled_from(["zeros", "rank one", "equal", "dead", "indefinite", "spread"])
SCALES = st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30])


def degenerate(kind, size, seed):
    """Return a moment, float64 `[size, size]`, singular by rounding or by too few tokens."""
    rng = np.random.default_rng(seed)
    moment = correlated(size, seed).astype(np.float64)
    if kind == "zeros":
        moment[:] = 0
    elif kind == "rank one":
        row = rng.normal(size=size)
        moment = np.outer(row, row)
    elif kind == "equal":  # all channels are one
        moment = np.ones((size, size))
    elif kind == "dead":
        dead = rng.random(size) < 0.5
        moment[dead], moment[:, dead] = 0, 0
    elif kind == "indefinite":
        noise = 1e-3 * rng.normal(size=(size, size))
        moment = np.outer(np.ones(size), np.ones(size)) + noise + noise.T
    else:  # a few channels are far larger than all others
        scale = np.exp2(rng.integers(-30, 30, size).astype(np.float64))
        moment *= np.outer(scale, scale)
    return moment


@examples(150)
@given(
    kind=DEGENERATE, size=st.integers(1, 70), seed=st.integers(0, 99), scale=SCALES,
    damping=st.sampled_from([0.0, 1e-12, 1e-3, 0.6]),
)  # fmt: skip
def test_every_moment_can_be_factored(kind, size, seed, scale, damping):
    moment = degenerate(kind, size, seed) * scale
    mean = np.diag(moment).mean() or 1.0
    cholesky, added = damped_cholesky(moment, damping)
    assert added >= damping * mean
    assert np.isfinite(cholesky).all()
    assert np.diag(cholesky).min() ** 2 > 0.5 * added
    difference = cholesky @ cholesky.T - moment - added * np.eye(size)
    assert np.abs(difference).max() <= 1e-9 * (mean + added) * size


@examples(100)
@given(kind=DEGENERATE, size=st.integers(1, 70), seed=st.integers(0, 99), scale=SCALES)
def test_factors_of_any_moment_are_finite_and_positive(kind, size, seed, scale):
    moment = degenerate(kind, size, seed) * scale
    inputs, outputs = InputFactor.from_moment(moment, 1e-3), output_factor(moment, 1e-3)
    for factor in (inputs.lower, inputs.diagonal, outputs.mixing, outputs.diagonal):
        assert np.isfinite(factor).all()
    assert (inputs.diagonal > 0).all()
    assert (outputs.diagonal > 0).all()


@given(
    kinds=st.tuples(DEGENERATE, DEGENERATE), rows=st.integers(1, 70),
    columns=st.integers(1, 70), seed=st.integers(0, 99),
)  # fmt: skip
def test_errors_that_are_fed_back_are_never_clipped(kinds, rows, columns, seed):
    """Use 12 bits per weight, with the least damping that the tool uses."""
    inputs = InputFactor.from_moment(degenerate(kinds[0], rows, seed), 0.2 / 2**8)
    outputs = output_factor(degenerate(kinds[1], columns, seed), 0.6 / 2**8)
    weights = random_weights(rows, columns, seed)
    levels = np.zeros(columns, np.int16)
    integers = quantise(weights, levels, levels, 2.0**-11, inputs, outputs)
    assert np.abs(integers).max() < MAX_INTEGER // 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_moment_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        damped_cholesky(np.full((3, 3), value), 0.1)


def a_cost():
    outputs = tuple(output_factor(correlated(columns, columns), 0.02) for columns in (7, 5))
    return ErrorCost(InputFactor.from_moment(correlated(9, 1), 0.02), outputs)


def test_a_cost_goes_through_arrays():
    cost = a_cost()
    again = ErrorCost.from_arrays(cost.to_arrays())
    assert again.inputs.damping == cost.inputs.damping
    for name in ("order", "lower", "diagonal"):
        np.testing.assert_array_equal(getattr(again.inputs, name), getattr(cost.inputs, name))
    assert len(again.outputs) == 2
    for own, before in zip(again.outputs, cost.outputs, strict=True):
        for name in ("mixing", "diagonal", "levels"):
            np.testing.assert_array_equal(getattr(own, name), getattr(before, name))


def test_the_unit_is_the_geometric_mean_of_the_importance_of_columns():
    cost = a_cost()
    importance = np.concatenate([own.diagonal for own in cost.outputs])
    assert cost.unit == pytest.approx(np.prod(importance) ** (1 / 12))
    # An error of one step in a column of unit importance costs 1.
    assert cost.unit_step**2 * cost.unit * cost.inputs.diagonal.mean() == pytest.approx(1)
    chosen = np.array([11, 0, 8])
    np.testing.assert_array_equal(cost.columns(chosen).diagonal, importance[chosen])
