"""Levels of rows: no other level within reach takes fewer bits."""

import numpy as np
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec import scales
from rbe_cli.codec.entropy import row_levels
from rbe_cli.codec.entropy.entropy_model import (
    MAX_LEVEL,
    MIN_LEVEL,
    SYMBOL_OFFSET,
    entropy_tables,
)
from rbe_cli.codec.entropy.row_levels import cheapest_row_levels


def block(rows, columns, level, spread, seed):
    """Return integers `[rows, columns]` of about a level, and the levels of the columns."""
    rng = np.random.default_rng(seed)
    levels = np.rint(rng.normal(0, spread, columns)).astype(np.int16)
    sigmas = 2.0 ** ((level + rng.normal(0, 4, (rows, 1)) + levels) / 8)
    values = np.rint(sigmas * rng.standard_normal((rows, columns)))
    return values.astype(np.int32), levels


def row_bits(values, row, levels):
    """Return the bits of one row of integers if its level is `row`."""
    tables, total = entropy_tables(), 0.0
    for n, column in zip(values.tolist(), levels.tolist(), strict=True):
        index = min(max(row + column, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
        z = n % 2
        symbol = ((n - z) // 2 >> int(tables.shift[index])) + SYMBOL_OFFSET
        total += float(tables.bits[index, z, symbol])
    return total


def cost(values, row, first, levels):
    return row_bits(values, row, levels) + row_levels._PRICE * abs(row - first)


@examples(20)
@given(
    rows=st.sampled_from([1, 3, row_levels._ROWS + 1]),
    columns=st.integers(1, 40),
    level=st.integers(-30, 30),
    spread=st.sampled_from([0, 2, 12]),
    seed=st.integers(0, 999),
)
def test_no_level_within_reach_takes_fewer_bits(rows, columns, level, spread, seed):
    values, levels = block(rows, columns, level, spread, seed)
    first = scales.row_levels(values, levels)
    found = cheapest_row_levels(values, levels, first)
    assert found.dtype == np.int16
    for own, row, chosen in list(zip(values, first.tolist(), found.tolist(), strict=True))[-3:]:
        if row > row_levels._HIGHEST or np.abs(own).max() > row_levels._LARGEST:
            assert chosen == row
            continue
        near = range(row - row_levels._LOWER, row + row_levels._HIGHER + 1)
        least = min(cost(own, other, row, levels) for other in near)
        assert cost(own, chosen, row, levels) <= least + 1e-5 * (1 + least)


def test_rows_of_zeros_keep_their_level():
    values, levels = np.zeros((2, 8), np.int32), np.zeros(8, np.int16)
    rows = np.array([MIN_LEVEL - 5, MIN_LEVEL], np.int16)
    np.testing.assert_array_equal(cheapest_row_levels(values, levels, rows), rows)


def test_at_low_rates_levels_that_fit_the_power_take_a_twentieth_more_bits():
    values, levels = block(100, 300, -6, 2, 0)
    first = scales.row_levels(values, levels)
    found = cheapest_row_levels(values, levels, first)
    before, after = (
        sum(row_bits(own, row, levels) for own, row in zip(values, rows.tolist(), strict=True))
        for rows in (first, found)
    )
    assert after < 0.95 * before
