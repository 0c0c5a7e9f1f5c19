"""Codes and steps after coordinate descent, against costs computed in float64."""

import numpy as np
import pytest
from second_moments import correlated, random_weights

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed import coordinate_descent
from rbe_cli.codec.fixed.coordinate_descent import descend
from rbe_cli.codec.fixed.fixed_encoder import quantise
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, steps
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.native import load

BITS = sorted(LAYOUTS)
SIDES = ["", "inputs", "outputs", "inputs outputs"]


def factors(shape, sides):
    """Return factors of both sides; those of a side that is not named are diagonal."""
    rows, columns = shape
    inputs = InputFactor.identity(rows)
    if "inputs" in sides:
        inputs = InputFactor.from_moment(correlated(rows, 0), 0.01)
    outputs = []
    for part in column_blocks(columns):
        width = part.stop - part.start
        if "outputs" in sides:
            levels, moment = np.zeros(width, np.int16), correlated(width, 1)
            outputs.append(OutputFactor.from_moment(moment, 0.01, levels, together=1))
        else:
            outputs.append(OutputFactor.from_importance(1.0 + np.arange(width) % 5))
    return inputs, tuple(outputs)


def moments(factor):
    """Return the moment of a factor as a whole matrix, float64."""
    moment, diagonal = (own.astype(np.float64) for own in factor.moment())
    return moment if moment.size else np.diag(diagonal)


def errors_of(weights, bits, found):
    """Return the errors of a quantised matrix and the size of its steps, float64 `[K, N]`."""
    columns = found.unit * steps(found.column_levels).astype(np.float64)
    scale = steps(found.row_levels).astype(np.float64)[:, None] * columns
    return LAYOUTS[bits].levels[found.codes] * scale - weights, scale


def cost_of(weights, bits, found, inputs, outputs):
    """Return tr(E^T H E G)."""
    errors, _ = errors_of(weights, bits, found)
    mixed, total = moments(inputs) @ errors, 0.0
    for part, factor in zip(column_blocks(weights.shape[1]), outputs, strict=True):
        # The factors of all blocks are relative to a mean of their own.
        total += np.sum(mixed[:, part] * (errors[:, part] @ moments(factor)))
    return total


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("shape", [(1, 1), (70, 33), (40, 1100)])
def test_the_cost_falls(bits, sides, shape):
    weights, costs = random_weights(*shape, 0), factors(shape, sides)
    start = quantise(weights, bits, *costs)
    kept = [own.copy() for own in start[:3]]
    found = descend(weights, bits, start, *costs)
    before, after = (cost_of(weights, bits, own, *costs) for own in (start, found))
    assert after <= before * (1 + 1e-6)
    if sides and min(shape) > 1:
        assert after < before
    for own, expected in zip(start[:3], kept, strict=True):
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sides", SIDES)
def test_in_the_end_no_other_code_costs_less(bits, sides, monkeypatch):
    monkeypatch.setattr(coordinate_descent, "_ROUNDS", 60)
    weights, (inputs, outputs) = random_weights(50, 70, 0), factors((50, 70), sides)
    found = descend(weights, bits, quantise(weights, bits, inputs, outputs), inputs, outputs)
    errors, scale = errors_of(weights, bits, found)
    rows, columns = moments(inputs), moments(outputs[0])
    slopes, curvatures = rows @ errors @ columns, np.outer(np.diag(rows), np.diag(columns))
    whole = np.sum(errors * slopes)
    levels = LAYOUTS[bits].levels[1 if bits == 8 else 0 :]
    for level in levels:
        change = (level - LAYOUTS[bits].levels[found.codes]) * scale
        assert (change * (2 * slopes + curvatures * change)).min() >= -1e-6 * whole


def test_steps_change_by_a_level_where_that_lowers_the_cost(monkeypatch):
    weights = random_weights(200, 20, 0)
    costs = factors(weights.shape, "inputs outputs")
    start = quantise(weights, 2, *costs)
    small = start._replace(column_levels=start.column_levels - np.int8(1))
    found = descend(weights, 2, small, *costs)
    monkeypatch.setattr(coordinate_descent, "_STEP_REACH", dict.fromkeys(BITS, 0))
    kept = descend(weights, 2, small, *costs)
    np.testing.assert_array_equal(kept.column_levels, small.column_levels)
    np.testing.assert_array_equal(found.row_levels, start.row_levels)
    changes = np.abs(found.column_levels.astype(int) - small.column_levels)
    assert changes.max() == 1
    assert cost_of(weights, 2, found, *costs) < cost_of(weights, 2, kept, *costs)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 1), (9, 100), (75, 129)])
def test_every_instruction_set_gives_the_same_codes(bits, shape, monkeypatch):
    weights, costs = random_weights(*shape, 0), factors(shape, "inputs outputs")
    start, found = quantise(weights, bits, *costs), []
    for own in available():
        monkeypatch.setattr(
            coordinate_descent, "load", lambda programs, own=own: load(programs, own)
        )
        found.append(descend(weights, bits, start, *costs))
    for other in found[1:]:
        for values, expected in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(values, expected)
