import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE
from rbe_cli.codec.scales import (
    column_levels,
    least_step_levels,
    row_levels,
    scale_model,
    step_levels,
    steps,
)


def levels_of(scales):
    """Return the levels relative to their mean, before they are rounded."""
    octaves = np.log2(scales)
    return LEVELS_PER_OCTAVE * (octaves - octaves.mean())


def known_scales(rows, columns, seed):
    """Return (row scales, column scales) that span several octaves."""
    rng = np.random.default_rng(seed)
    return np.exp2(rng.uniform(-3, 3, rows)), np.exp2(rng.uniform(-2, 2, columns))


def product(r, c, seed):
    """Return values with the magnitudes r c, float32 `[K, B]`."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (r.size, c.size))
    return (signs * r[:, None] * c).astype(np.float32)


# The fit


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 999))
def test_scales_of_a_product_are_found(rows, columns, seed):
    r, c = known_scales(rows, columns, seed)
    weights = 1000 * product(r, c, seed)  # whose rows are fitted as those of integers
    found = column_levels(weights)
    found_rows = row_levels(weights, found)
    assert found_rows.dtype == found.dtype == np.int16
    assert np.ptp(found - levels_of(c)) <= 1.01  # half a level either way by rounding
    assert abs(found.mean()) <= 0.51
    magnitudes = LEVELS_PER_OCTAVE * np.log2(1000 * r[:, None] * c)
    # Half a level by the rounded column, as much by the rows' answer to it, and by its rounding.
    assert np.abs(found_rows[:, None] + found - magnitudes).max() <= 1.51


def test_scales_of_gaussian_values_are_found():
    r, c = known_scales(2000, 300, 0)
    values = (np.random.default_rng(0).normal(size=(2000, 300)) * r[:, None] * c).astype(np.float32)
    columns = column_levels(values)
    rows = row_levels(1000 * values, columns)
    assert np.ptp(columns - levels_of(c)) <= 2  # sampling adds .13 levels rms
    assert np.ptp(rows - levels_of(r)) <= 4  # and .33 with the fewer columns


@given(seed=st.integers(0, 999), octaves=st.integers(-20, 20))
def test_scales_of_rows_do_not_matter_to_those_of_columns(seed, octaves):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(20, 10)).astype(np.float32)
    scaled = weights * np.exp2(rng.integers(-8, 8, (20, 1)) + octaves).astype(np.float32)
    np.testing.assert_array_equal(column_levels(scaled), column_levels(weights))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 6)])
def test_columns_of_zeros_are_alike_and_their_rows_have_the_scale_of_noise(shape):
    zeros = np.zeros(shape, np.float32)
    columns = column_levels(zeros)
    np.testing.assert_array_equal(columns, np.zeros(shape[1]))
    expected = round(0.5 * LEVELS_PER_OCTAVE * np.log2(0.02))
    np.testing.assert_array_equal(row_levels(zeros.astype(np.int32), columns), expected)


def test_a_column_of_zeros_is_small_and_leaves_the_others_alone():
    r, c = known_scales(50, 20, 0)
    weights = product(r, c, 0)
    weights[:, 7] = 0
    found = column_levels(weights)
    others = np.delete(np.arange(20), 7)
    assert found[7] < found[others].min()
    assert np.ptp(found[others] - levels_of(c)[others]) <= 1.01


@given(
    weights=arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 6)),
        elements=st.sampled_from([0.0, 1e-38, -1e-20, 1.0, -1e20, 3e38]),
    )
)
def test_extreme_spreads_stay_in_bounds(weights):
    found = column_levels(weights)
    assert np.abs(found).max() <= 6 * LEVELS_PER_OCTAVE


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_levels_of_integers_are_their_magnitudes(rows, columns, seed):
    rng = np.random.default_rng(seed)
    magnitude = 2 ** rng.integers(2, 10)
    integers = (magnitude * rng.choice([-1, 1], (rows, columns))).astype(np.int32)
    levels = column_levels(integers.astype(np.float32))
    expected = round(LEVELS_PER_OCTAVE * np.log2(magnitude))
    found = row_levels(integers, levels)[:, None] + levels
    np.testing.assert_array_equal(found, np.full_like(integers, expected))


def test_integers_of_a_width_that_overflows_when_squared():
    found = row_levels(np.full((3, 2), 32765, np.int32), np.zeros(2, np.int16))
    np.testing.assert_array_equal(found, 8 * 15)


# Steps


@given(
    importance=arrays(
        np.float32, st.integers(1, 40), elements=st.floats(2.0**-60, 2.0**60, width=32)
    ),
    unit=st.floats(1e-10, 1e10),
    step=st.floats(1e-3, 1e3),
)
def test_steps_are_those_of_the_importance_within_half_a_level(importance, unit, step):
    levels = step_levels(importance, unit)
    assert levels.dtype == np.int16
    exact = step / np.sqrt(importance.astype(np.float64) / unit)
    octaves = np.log2(steps(step, levels) / exact)
    assert np.abs(octaves).max() <= 0.5 / LEVELS_PER_OCTAVE + 1e-5


@given(levels=arrays(np.int16, st.integers(1, 40), elements=st.integers(-400, 400)))
def test_steps_are_float32_in_eighths_of_an_octave(levels):
    found = steps(0.3, levels)
    assert found.dtype == np.float32
    expected = 0.3 * 2.0 ** (levels / LEVELS_PER_OCTAVE)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_column_of_unit_importance_has_the_step_itself():
    np.testing.assert_array_equal(step_levels(np.full(5, 0.7, np.float32), np.float32(0.7)), 0)
    np.testing.assert_array_equal(steps(0.3, np.zeros(5, np.int16)), np.float32(0.3))


# What the levels themselves are coded with


@given(arrays(np.int16, st.integers(1, 50), elements=st.integers(-400, 400)))
def test_scale_model_is_centred_and_as_wide_as_the_levels(levels):
    mean, level = scale_model(levels)
    assert abs(mean - levels.mean()) <= 0.5
    deviation = 2.0 ** (level / LEVELS_PER_OCTAVE) / 2
    assert 0.9 * levels.std() <= deviation <= max(1.1 * levels.std(), 1 / 16)


@given(largest=st.sampled_from([7, 100]), exponent=st.integers(-20, 20))
def test_least_steps_hold_three_deviations(largest, exponent):
    deviations = 2.0 ** (exponent + np.arange(6))
    signs = np.where(np.arange(40) % 2, 1.0, -1.0)
    weights = (signs[:, None] * deviations).astype(np.float32)
    for step in (1e-3, 1.0, 50.0):
        levels = least_step_levels(weights, step, largest)
        held = step * np.exp2(levels / 8) * largest / deviations
        assert (held >= 3 - 1e-6).all()
        assert (held < 3 * 2 ** (1 / 8) + 1e-6).all()


def test_columns_of_zeros_may_have_any_step():
    levels = least_step_levels(np.zeros((4, 3), np.float32), 1.0, 7)
    assert (levels < -1000).all()
