"""Integers of a tile keep to the bits that nearly all of them need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.ectcq.error_feedback import quantise
from rbe_cli.codec.ectcq.tile_widths import ERROR, SHARE, feedback_power, tile_widths
from rbe_cli.codec.error_cost import InputFactor, OutputFactor


def gaussian(shape, deviation):
    return np.random.default_rng(0).normal(0, deviation, shape).astype(np.float32)


def tiles_of(weights):
    """Yield ((tile, panel), its rows and columns)."""
    for i in range(0, weights.shape[0], 32):
        for j in range(0, weights.shape[1], 16):
            yield (i // 32, j // 16), np.s_[i : i + 32, j : j + 16]


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 40),
    octaves=st.floats(-3, 12),
    seed=st.integers(0, 99),
)
def test_a_tile_has_the_smallest_width_that_adds_little(rows, columns, octaves, seed):
    rng = np.random.default_rng(seed)
    weights = (2**octaves * rng.standard_t(4, (rows, columns))).clip(-32765, 32765).astype("f4")
    importance = rng.uniform(0.1, 9, rows)
    widths = tile_widths(weights, np.zeros(weights.shape), importance)
    assert widths.dtype == np.uint8
    assert widths.shape == (-(-rows // 32), -(-columns // 16))
    relative = importance / importance.mean()
    for place, (own, part) in tiles_of(weights):
        sizes = np.abs(weights[own, part].astype(np.float64))
        added = [
            np.sum(relative[own, None] * np.maximum(sizes - 2**width + 0.5, 0) ** 2)
            for width in range(16)
        ]
        allowed = SHARE * ERROR * sizes.size
        assert 1 <= widths[place] <= 15
        assert widths[place] == 15 or added[widths[place]] <= allowed * (1 + 1e-4)
        assert widths[place] == 1 or added[widths[place] - 1] > allowed * (1 - 1e-4)


def test_integers_keep_to_the_widths_of_their_tiles():
    weights, levels = gaussian((64, 48), 5.0), np.zeros(48, np.int16)
    weights[5, 7] = 300
    factors = InputFactor.identity(64), OutputFactor.identity(48)
    integers = quantise(weights, levels, levels, 1.0, *factors)
    widths = tile_widths(weights, np.zeros(weights.shape), np.ones(64))
    assert widths[0, 0] == 9
    for place, own in tiles_of(weights):
        assert integers[own].min() >= -(2 ** int(widths[place]))
        assert integers[own].max() < 2 ** int(widths[place])


@pytest.mark.parametrize("deviation", [1.3, 2.6, 5.0])
def test_widths_save_memory_and_hardly_change_weights(deviation):
    weights = gaussian((512, 64), deviation)
    widths = tile_widths(weights, np.zeros(weights.shape), np.ones(512))
    largest = np.array([np.abs(weights[own]).max() for _, own in tiles_of(weights)])
    assert np.mean(np.ceil(np.log2(largest + 0.5)) - widths.reshape(-1)) >= 0.1
    limits = np.repeat(np.repeat(2.0**widths, 32, axis=0), 16, axis=1)
    lost = np.maximum(np.abs(weights) - limits, 0)
    assert np.mean(lost**2) < SHARE * ERROR


def test_feedback_has_the_power_that_is_expected():
    """Errors e of mean square ERROR become L^T e, and M^T of that in later columns."""
    rng = np.random.default_rng(1)
    lower = np.tril(rng.normal(0, 0.3, (20, 20)), -1) + np.eye(20)
    mixing = np.triu(rng.normal(0, 0.2, (30, 30)), 1)
    errors = rng.normal(0, np.sqrt(ERROR), (4000, 20, 30))
    combined = np.einsum("ki,nkj->nij", lower, errors)
    feedback = combined - errors + combined @ mixing
    large, lower, mixing = np.full((20, 30), 9.0, "f4"), lower.astype("f4"), mixing.astype("f4")
    found = feedback_power(large, lower, mixing)
    np.testing.assert_allclose(found, np.mean(feedback**2, axis=0), rtol=0.15, atol=1e-12)
    assert (feedback_power(large / 90, lower, mixing) < 0.05 * found + 1e-12).all()
    nothing = np.zeros((0, 0), np.float32)
    np.testing.assert_array_equal(feedback_power(large, nothing, nothing), np.zeros((20, 30)))


def test_feedback_widens_tiles():
    weights = gaussian((64, 32), 1.0)
    alone = tile_widths(weights, np.zeros(weights.shape), np.ones(64))
    fed_back = tile_widths(weights, np.full(weights.shape, 15.0), np.ones(64))
    np.testing.assert_array_equal(fed_back, alone + 2)
    zeros = tile_widths(np.zeros((64, 32), "f4"), np.full(weights.shape, 16.0), np.ones(64))
    np.testing.assert_array_equal(zeros, 4)
