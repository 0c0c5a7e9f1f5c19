"""Choose the level of each row in the entropy model, so that its integers take the fewest bits.

From 3 bits a weight up, the level that fits the power of a row's integers (scales.py) is near it.
At low rates most integers are 0, more of them than a Gaussian of the same power has, and the
cheapest level is some eighths of an octave lower.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.codec.entropy.entropy_model import (
    MAX_LEVEL,
    MIN_LEVEL,
    SYMBOL_OFFSET,
    entropy_tables,
)

Levels = NDArray[np.int16]
_HIGHEST = 8  # rows of higher levels, deviations of more than two steps, gain hardly anything
_LARGEST = 31  # the largest |n| of other rows that are tried; their q are symbols at any level
_LOWER, _HIGHER = 16, 3  # the range of levels that are tried, around those that fit the power
_PRICE = 0.1  # bits for a level's distance from the first one: unlike levels take more bits
_ROWS = 64  # of similar levels, whose integers are counted at once


def cheapest_row_levels(integers: NDArray[np.int32], columns: Levels, rows: Levels) -> Levels:
    """Return the levels of rows at which their integers take the fewest bits, int16 `[K]`.

    Rows of high levels or with an integer beyond 31 keep their level, which costs them little.

    Args:
        integers: n, int32 `[K, B]`.
        columns: int16 `[B]`, the levels of the columns. Their sums with the levels of rows select
            the tables of the entropy model.
        rows: int16 `[K]`, the levels that fit the integers' power.
    """
    found = rows.copy()
    sizes = np.abs(integers).max(axis=1)
    small = np.flatnonzero((rows <= _HIGHEST) & (sizes <= _LARGEST))
    small = small[np.argsort(rows[small], kind="stable")]
    for start in range(0, small.size, _ROWS):
        own = small[start : start + _ROWS]
        found[own] = _cheapest(integers[own], int(sizes[own].max()), columns, rows[own])
    return found


def _cheapest(
    integers: NDArray[np.int32], largest: int, columns: Levels, rows: Levels
) -> NDArray[np.int64]:
    """Return the cheapest levels of some rows, of which no integer is beyond `largest`."""
    least, kinds = int(columns.min()), int(np.ptp(columns)) + 1
    values = np.arange(-largest, largest + 1)
    # How often each integer occurs in the columns of each level: [rows, kinds * values].
    offsets = (columns - least).astype(np.int64) * values.size + largest
    places = integers + offsets
    places += np.arange(len(integers))[:, None] * (kinds * values.size)
    counts = np.bincount(places.reshape(-1), minlength=len(integers) * kinds * values.size)
    tried = np.arange(int(rows.min()) - _LOWER, int(rows.max()) + _HIGHER + 1)
    levels = tried + np.arange(least, least + kinds)[:, None]  # [kinds, tried]
    bits = _bits(values)[np.clip(levels, MIN_LEVEL, MAX_LEVEL) - MIN_LEVEL]
    bits = np.ascontiguousarray(bits.transpose(0, 2, 1)).reshape(-1, tried.size)
    costs = product(counts.reshape(len(integers), -1).astype(np.float32), bits)
    return tried[np.argmin(costs + _PRICE * np.abs(tried - rows[:, None]), axis=1)]


def _bits(values: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the bits of integers `[n]` at each level, float32 `[LEVELS, n]`. z is n modulo 2."""
    tables = entropy_tables()
    symbols = ((values >> 1) >> tables.shift[:, None]) + SYMBOL_OFFSET
    return tables.bits[np.arange(len(symbols))[:, None], values & 1, symbols]
