"""Round to nearest, HQQ and GPTQ keep what their papers promise."""

import numpy as np
import pytest

from benchmarks.peers import gptq, hqq, rtn
from benchmarks.peers.grid import GROUP, Grid

BITS = (2, 3, 4)


def heavy_tailed(rows, columns=24, seed=0):
    """Weights with outliers, as a model's have."""
    rng = np.random.default_rng(seed)
    return (0.02 * rng.standard_t(3, (rows, columns))).astype(np.float32)


def correlated_moment(size, seed=1):
    """E[x x^T] of inputs whose spectrum falls off."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    scaled = basis * np.geomspace(1, 1e-3, size)
    return (scaled @ basis.T).astype(np.float32)


def output_error(change, moment):
    """E |x change|^2."""
    return np.vdot(moment @ change, change)


@pytest.mark.parametrize("bits", BITS)
def test_rounding_errs_by_half_a_step_at_most(bits):
    weights = heavy_tailed(GROUP)
    grid = Grid.fit(weights, bits)
    # An end of the range may lie half a step beyond the grid, as the zero is an integer.
    assert (np.abs(grid.nearest(weights) - weights) <= grid.scale * 1.01).all()
    assert np.mean(np.abs(grid.nearest(weights) - weights) <= grid.scale * 0.501) > 0.95


def test_zero_is_on_every_grid():
    weights = np.abs(heavy_tailed(GROUP)) + 1
    zeros = np.zeros_like(weights)
    assert (Grid.fit(weights, 3).nearest(zeros) == 0).all()


def test_a_constant_column_stays():
    weights = np.zeros((GROUP, 2), np.float32)
    weights[:, 1] = 0.5
    np.testing.assert_allclose(rtn.quantise(weights, 2).weights, weights, rtol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_a_clipped_grid_errs_less_in_its_norm(bits):
    weights = heavy_tailed(GROUP)

    def loss(grid):
        return (np.abs(grid.nearest(weights) - weights) ** 2.4).sum(axis=0)

    clipped, whole = loss(Grid.search(weights, bits)), loss(Grid.fit(weights, bits))
    assert (clipped <= whole).all()
    assert clipped.sum() < 0.95 * whole.sum()


@pytest.mark.parametrize("rows", [GROUP // 2, GROUP, 2 * GROUP + 5])
@pytest.mark.parametrize("bits", BITS)
def test_no_group_has_more_values_than_its_bits_can_name(rows, bits):
    weights = heavy_tailed(rows)
    moment = np.diag(np.arange(rows, 0, -1)).astype(np.float32)  # keeps the rows' order
    for found, group in (
        (rtn.quantise(weights, bits), GROUP),
        (gptq.quantise(weights, moment, bits), GROUP),
        (hqq.quantise(weights, bits), hqq.GROUP),
    ):
        for start in range(0, rows, group):
            for column in found.weights[start : start + group].T:
                assert np.unique(column).size <= 2**bits


def test_bits_count_scales_and_zeros():
    weights = heavy_tailed(2 * GROUP + 5, columns=24)
    groups = 3 * 24  # two whole ones and a rest, for each output
    assert rtn.quantise(weights, 3).bits == weights.size * 3 + groups * (16 + 3)
    identity = np.eye(len(weights), dtype=np.float32)
    assert gptq.quantise(weights, identity, 3).bits == rtn.quantise(weights, 3).bits + 8 * 261
    assert hqq.quantise(weights, 3).bits == weights.size * 3 + 5 * 24 * 32


@pytest.mark.parametrize("bits", BITS)
def test_gptq_of_inputs_that_do_not_correlate_is_rounding(bits):
    weights = heavy_tailed(GROUP + 40)
    found = gptq.quantise(weights, np.eye(len(weights), dtype=np.float32), bits)
    for rows in (slice(0, GROUP), slice(GROUP, None)):
        group = weights[rows]
        expected = Grid.search(group, bits).nearest(group)
        np.testing.assert_array_equal(found.weights[rows], expected)


@pytest.mark.parametrize("bits", BITS)
def test_gptq_lessens_the_output_s_error_of_correlated_inputs(bits):
    weights, moment = heavy_tailed(GROUP + 40), correlated_moment(GROUP + 40)
    found = gptq.quantise(weights, moment, bits).weights
    rounded = np.concatenate(
        [Grid.search(group, bits).nearest(group) for group in np.split(weights, [GROUP])]
    )
    error = output_error(found - weights, moment)
    assert error < 0.7 * output_error(rounded - weights, moment)
    nearest = rtn.quantise(weights, bits).weights
    assert error < 0.7 * output_error(nearest - weights, moment)
    assert np.linalg.norm(found - weights) > np.linalg.norm(rounded - weights)


def test_gptq_does_not_depend_on_the_order_of_the_inputs():
    weights, moment = heavy_tailed(150), correlated_moment(150)
    order = np.random.default_rng(2).permutation(150)
    found = gptq.quantise(weights, moment, 3).weights
    moved = gptq.quantise(weights[order], moment[np.ix_(order, order)], 3).weights
    assert np.mean(moved == found[order]) > 0.99  # but for ties that rounding errors decide


@pytest.mark.parametrize("bits", BITS)
def test_hqq_minds_outliers_less_than_rounding_does(bits):
    weights = heavy_tailed(hqq.GROUP, columns=200)
    errors = np.abs(hqq.quantise(weights, bits).weights - weights)
    nearest = np.abs(rtn.quantise(weights, bits).weights - weights)
    assert (errors**hqq.NORM).sum() <= (nearest**hqq.NORM).sum()
    assert errors.sum() < nearest.sum()
