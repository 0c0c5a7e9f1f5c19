"""Test error feedback through inputs and outputs: its integers, and how much it saves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from second_moments import correlated, output_factor, random_weights

from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import SEGMENT
from rbe_cli.codec.ectcq import error_feedback
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, encode_block
from rbe_cli.codec.ectcq.error_feedback import GROUP, quantise
from rbe_cli.codec.ectcq.tile_widths import feedback_power, tile_widths
from rbe_cli.codec.ectcq.trellis import (
    DEFAULT_OPTIONS,
    PANEL,
    PARITY_CHECKS,
    QuantiserOptions,
    make_search,
)
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE, MAX_INTEGER
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.libraries import QUANTISE_SEGMENT
from rbe_cli.runtime.native import load


def encoded(weights, step, inputs, outputs):
    unit = float(np.exp(np.mean(np.log(outputs.diagonal))))
    block = encode_block(weights, step, inputs, outputs, unit)
    return EncodedMatrix(weights.shape, float(np.float32(step)), (block,))


def loss(weights, matrix, inputs, outputs):
    """Return tr(E^T H E G) of the change by encoding."""
    change = (weights - matrix.decode()).astype(np.float64)
    return np.sum((inputs.astype(np.float64) @ change) * (change @ outputs.astype(np.float64)))


# Feedback


def quantised_stretch(target, row_level, column_levels, widths, state, options):
    """Return (integers, end state)."""
    out = np.empty(len(target), np.int32)
    search = make_search(len(target), options)
    (quantise_segment,) = load([QUANTISE_SEGMENT])
    arguments = target.astype("f4"), row_level, column_levels, widths, *search, out, state
    return out, quantise_segment(*arguments)


def quantised(weights, step_levels, step, inputs, outputs, options=DEFAULT_OPTIONS):
    """Quantise columns that are coded with the levels of their weights."""
    levels = levels_in_steps(weights, step_levels, step, inputs)
    return quantise(weights, levels, step_levels, step, inputs, outputs, options)


def levels_in_steps(weights, step_levels, step, inputs):
    steps = step * 2.0 ** (step_levels / LEVELS_PER_OCTAVE)
    return scales.column_levels((weights[inputs.order] / steps).astype(np.float32))


def group_end(row, rows):
    """Return the row after the last one of a row's group; groups begin at the end of 64 rows."""
    last = min(row // 64 * 64 + 64, rows)
    return last - (last - 1 - row) // GROUP * GROUP


def recursion(weights, step_levels, step, inputs, outputs, options=DEFAULT_OPTIONS):
    """Apply both feedbacks by their definition, one weight at a time, in float64.

    The target of a weight is the weight, plus u_kj M_jn of the columns before, with u = L^T E the
    errors combined with those of the rows below, plus this row's own part of u.
    """
    rows, width = weights.shape
    steps = step * 2.0 ** (step_levels / LEVELS_PER_OCTAVE)
    levels = levels_in_steps(weights, step_levels, step, inputs)
    importance = inputs.diagonal[np.argsort(inputs.order)]
    mixed = outputs.mixing * steps[:, None] / steps if outputs.mixing.size else outputs.mixing
    in_steps = (weights[inputs.order] / steps).astype("f4")
    power = feedback_power(in_steps, inputs.lower, mixed.astype("f4"))
    power = power[np.argsort(inputs.order)]
    widths = tile_widths((weights / steps).astype("f4"), power, importance)
    lower = inputs.lower if inputs.lower.size else np.eye(rows)
    mixing = outputs.mixing if outputs.mixing.size else np.zeros((width, width))
    segment = SEGMENT if outputs.mixing.size else width
    errors, integers = np.zeros(weights.shape), np.empty(weights.shape, np.int32)
    for i in range(rows - 1, -1, -1):
        row = inputs.order[i]
        below = lower[i + 1 :, i].astype(np.float64) @ errors[i + 1 :]  # [width]
        known = group_end(i, rows) if outputs.mixing.size else i + 1
        without_group = lower[known:, i].astype(np.float64) @ errors[known:]
        scaled = (weights[row] + without_group) / steps
        relative = scaled.astype(np.float32) * (2.0 ** (-levels / LEVELS_PER_OCTAVE)).astype("f4")
        power = max(np.mean(relative.astype(np.float64) ** 2), 1e-12)
        row_level, state = int(np.rint(0.5 * LEVELS_PER_OCTAVE * np.log2(power))), 0
        for first in range(0, width, segment):
            part = slice(first, min(first + segment, width))
            before = (below + errors[i])[:first] @ mixing[:first, part]
            target = (weights[row, part] + below[part] + before) / steps[part]
            assert (target == target.astype(np.float32)).all()  # so that rounding plays no role
            integers[row, part], state = quantised_stretch(
                target, row_level, levels[part], widths[row // 32, first // PANEL :], state, options
            )
            errors[i, part] = weights[row, part] - steps[part] * integers[row, part]
    return integers


def dyadic_factors(rows, width, rng):
    """Return factors that are small multiples of powers of two, and of no real moment."""
    below = np.tril(rng.integers(-2, 3, (rows, rows)) / 8, -1)
    lower = below * (rng.random((rows, rows)) < 0.1) + np.eye(rows)
    inputs = InputFactor(
        rng.permutation(rows), lower.astype(np.float32), np.ones(rows, np.float32), 0.0
    )
    segment = np.arange(width) // SEGMENT
    later = rng.integers(-2, 3, (width, width)) / 8 * (segment[:, None] < segment)
    mixing = later * (rng.random((width, width)) < 0.1)
    no_levels = np.zeros(0, np.int16)  # `quantise` does not read them
    return inputs, OutputFactor(mixing.astype(np.float32), np.ones(width), no_levels)


@given(
    rows=st.integers(1, 150),
    columns=st.sampled_from([1, 5, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 9, 3 * SEGMENT, 170, 300]),
    octave=st.integers(-4, 1),
    seed=st.integers(0, 999),
    options=st.builds(
        QuantiserOptions, st.sampled_from(list(PARITY_CHECKS)), st.sampled_from([7, MAX_INTEGER])
    ),
)
def test_integers_are_those_of_the_plain_recursion(rows, columns, octave, seed, options):
    """All numbers are small multiples of powers of two, so that no sum is rounded."""
    rng = np.random.default_rng(seed)
    weights = (rng.integers(-200, 200, (rows, columns)) / 64).astype(np.float32)
    step_levels = (LEVELS_PER_OCTAVE * rng.integers(-1, 2, columns)).astype(np.int16)
    factors = dyadic_factors(rows, columns, rng)
    found = quantised(weights, step_levels, 2.0**octave, *factors, options)
    expected = recursion(weights, step_levels, 2.0**octave, *factors, options)
    np.testing.assert_array_equal(found, expected)


@given(
    rows=st.integers(1, 100),
    columns=st.integers(1, 70),
    seed=st.integers(0, 99),
    equal=st.booleans(),
)
def test_uncorrelated_inputs_feed_nothing_back(rows, columns, seed, equal):
    """Only the order of the rows differs, and each row is quantised by itself."""
    rng, weights = np.random.default_rng(seed), random_weights(rows, columns, seed)
    levels = rng.integers(-9, 9, columns).astype(np.int16)
    moment = np.diag(np.ones(rows) if equal else rng.uniform(0.1, 9, rows)).astype(np.float32)
    inputs = InputFactor.from_moment(moment, 0.01)
    importance = inputs.diagonal[np.argsort(inputs.order)]
    plain = replace(InputFactor.identity(rows), diagonal=importance)
    for outputs in (OutputFactor.identity(columns), output_factor(np.eye(columns), 0.0)):
        found, expected = (
            quantised(weights, levels, 0.25, side, outputs) for side in (inputs, plain)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("columns", [1, SEGMENT, 100])
def test_uncorrelated_moments_leave_each_row_to_a_single_search(columns):
    weights = np.round(64 * random_weights(40, columns, 0)) / 64
    levels = np.zeros(columns, np.int16)
    factors = InputFactor.identity(40), OutputFactor.identity(columns)
    found = quantised(weights, levels, 0.25, *factors)
    np.testing.assert_array_equal(found, recursion(weights, levels, 0.25, *factors))


def test_feedback_does_not_change_what_is_asked_for():
    weights = random_weights(70, 40, 0)
    original = weights.copy()
    inputs = InputFactor.from_moment(correlated(70, 0), 0.01)
    outputs = output_factor(correlated(40, 0), 0.01)
    kept = inputs.lower.copy(), outputs.mixing.copy()
    quantised(weights, np.zeros(40, np.int16), 0.5, inputs, outputs)
    np.testing.assert_array_equal(weights, original)
    np.testing.assert_array_equal(inputs.lower, kept[0])
    np.testing.assert_array_equal(outputs.mixing, kept[1])


@pytest.mark.parametrize("columns", [1, 100, 129, 300])
@pytest.mark.parametrize("rows", [1, 9, 75])
def test_every_instruction_set_gives_the_same_integers(rows, columns, monkeypatch):
    weights, levels = 9 * random_weights(rows, columns, 0), np.zeros(columns, np.int16)
    inputs = InputFactor.from_moment(correlated(rows, 0), 0.01)
    outputs = output_factor(correlated(columns, 1), 0.01)
    found = []
    for own in available():
        monkeypatch.setattr(error_feedback, "load", lambda programs, own=own: load(programs, own))
        found.append(quantised(weights, levels, 0.25, inputs, outputs))
    for integers in found[1:]:
        np.testing.assert_array_equal(integers, found[0])


# What it is worth


def saving(weights, step, moments, plain, fed_back):
    """Return squared errors with plain factors over those with feedback, at the same rate."""
    without, with_feedback = (encoded(weights, step, *factors) for factors in (plain, fed_back))
    bits = 8 * (with_feedback.nbytes - without.nbytes) / weights.size
    # A bit a weight divides squared errors by 4.
    return loss(weights, without, *moments) / loss(weights, with_feedback, *moments) / 4**bits


@pytest.mark.parametrize("step", [1.0, 0.25, 0.06])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_feedback_through_the_inputs_lowers_the_loss(step, decay):
    weights, moment = random_weights(150, 100, 0), correlated(150, 0, decay=decay)
    outputs = OutputFactor.identity(100)
    plain = InputFactor.identity(150), outputs
    fed_back = InputFactor.from_moment(moment, 0.01), outputs
    assert saving(weights, step, (moment, np.eye(100)), plain, fed_back) > 1.5


@pytest.mark.parametrize("step", [1.0, 0.25, 0.06])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_feedback_through_the_outputs_lowers_the_loss(step, decay):
    """The saving is in addition to that of steps by the columns' own importance."""
    weights, moment = random_weights(100, 160, 0), correlated(160, 0, decay=decay)
    inputs = InputFactor.identity(100)
    plain = inputs, OutputFactor.from_importance(np.diag(moment).astype(np.float64))
    fed_back = inputs, output_factor(moment, 0.01)
    assert saving(weights, step, (np.eye(100), moment), plain, fed_back) > 1.5


@pytest.mark.parametrize("step", [1.0, 0.25, 0.06])
def test_the_two_feedbacks_add_up(step):
    weights, inputs, outputs = random_weights(150, 160, 0), correlated(150, 0), correlated(160, 1)
    one_sided = InputFactor.from_moment(inputs, 0.01), OutputFactor.identity(160)
    two_sided = one_sided[0], output_factor(outputs, 0.01)
    assert saving(weights, step, (inputs, outputs), one_sided, two_sided) > 10


def test_columns_that_matter_more_have_finer_steps():
    """The loss of each column is then about the same."""
    importance = 4.0 ** (np.arange(512) % 4)
    weights = random_weights(50, 512, 0)
    outputs = OutputFactor.from_importance(importance)
    matrix = encoded(weights, 0.1, InputFactor.identity(50), outputs)
    error = np.mean((weights - matrix.decode()).astype(np.float64) ** 2, axis=0)
    lost = (importance * error).reshape(-1, 4).mean(axis=0)  # by importance
    assert lost.max() < 1.1 * lost.min()


DEGENERATE = {
    "zero": np.zeros((70, 70)),
    "rank 1": np.ones((70, 70)),
    "dead": np.diag(np.arange(70) % 2),
    "huge": 1e37 * correlated(70, 0, 3),
    "tiny": 1e-37 * correlated(70, 0, 3),
    "ill-conditioned": correlated(70, 0, decay=6),
    "spread": np.diag(np.logspace(-30, 30, 70)),
}


@pytest.mark.parametrize("moment", DEGENERATE.values(), ids=DEGENERATE)
def test_any_second_moment_of_inputs_can_be_used(moment):
    moment = moment.astype(np.float32)
    inputs, outputs = InputFactor.from_moment(moment, 0.01), OutputFactor.identity(30)
    assert np.isfinite(inputs.lower).all()
    weights = random_weights(70, 30, 0)
    matrix = encoded(weights, 2**-6, inputs, outputs)
    # Feedback moves weights, but only as far as the errors that it answers.
    assert np.abs(weights - matrix.decode()).max() < 1
    plain = encoded(weights, 2**-6, InputFactor.identity(70), outputs)
    moments = moment, np.eye(30)
    assert loss(weights, matrix, *moments) <= 1.1 * loss(weights, plain, *moments)


@pytest.mark.parametrize("moment", DEGENERATE.values(), ids=DEGENERATE)
def test_any_second_moment_of_gradients_can_be_used(moment):
    moment = moment.astype(np.float32)
    outputs = output_factor(moment, 0.01)
    assert np.isfinite(outputs.mixing).all()
    assert (outputs.diagonal > 0).all()
    weights = random_weights(40, 70, 0)
    matrix = encoded(weights, 2**-6, InputFactor.identity(40), outputs)
    plain = encoded(weights, 2**-6, InputFactor.identity(40), OutputFactor.identity(70))
    decoded = matrix.decode()
    assert np.isfinite(decoded).all()
    moments = np.eye(40), moment
    bits = 8 * (matrix.nbytes - plain.nbytes) / weights.size
    assert loss(weights, matrix, *moments) <= 1.1 * 4**-bits * loss(weights, plain, *moments)
