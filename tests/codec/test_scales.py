import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec.entropy_model import LEVELS_PER_OCTAVE
from rbe_cli.codec.scales import column_levels, scale_model


def levels_of(scales):
    """Log-scales relative to their mean, before they are rounded."""
    octaves = np.log2(scales)
    return LEVELS_PER_OCTAVE * (octaves - octaves.mean())


def known_scales(rows, columns, seed):
    """(row scales, column scales) over several octaves."""
    rng = np.random.default_rng(seed)
    return np.exp2(rng.uniform(-3, 3, rows)), np.exp2(rng.uniform(-2, 2, columns))


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 999))
def test_scales_of_a_product_are_found(rows, columns, seed):
    r, c = known_scales(rows, columns, seed)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (rows, columns))
    found = column_levels((signs * r[:, None] * c).astype(np.float32))
    assert found.dtype == np.int16
    assert np.ptp(found - levels_of(c)) <= 1.01  # half a level either way by rounding
    assert abs(found.mean()) <= 0.51


def test_scales_of_gaussian_weights_are_found():
    r, c = known_scales(2000, 30, 0)
    weights = np.random.default_rng(0).normal(size=(2000, 30)) * r[:, None] * c
    found = column_levels(weights.astype(np.float32))
    assert np.ptp(found - levels_of(c)) <= 2  # sampling adds .13 levels rms


@given(seed=st.integers(0, 999), octaves=st.integers(-20, 20))
def test_scales_of_rows_do_not_matter(seed, octaves):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(20, 10)).astype(np.float32)
    scaled = weights * np.exp2(rng.integers(-8, 8, (20, 1)) + octaves).astype(np.float32)
    np.testing.assert_array_equal(column_levels(scaled), column_levels(weights))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 6)])
def test_zeros_have_equal_scales(shape):
    np.testing.assert_array_equal(column_levels(np.zeros(shape, np.float32)), np.zeros(shape[1]))


def test_a_column_of_zeros_is_small_and_leaves_the_others_alone():
    r, c = known_scales(50, 20, 0)
    weights = (r[:, None] * c).astype(np.float32)
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


@given(arrays(np.int16, st.integers(1, 50), elements=st.integers(-400, 400)))
def test_scale_model_is_centred_and_as_wide_as_the_levels(levels):
    mean, level = scale_model(levels)
    assert abs(mean - levels.mean()) <= 0.5
    deviation = 2.0 ** (level / LEVELS_PER_OCTAVE) / 2
    assert 0.9 * levels.std() <= deviation <= 1.1 * levels.std() + 0.4
