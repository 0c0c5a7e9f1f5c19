"""Define the programs of the codec `fixed`, which are compiled (fixed_encoder.py)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.logarithm_program import log2_of
from rbe_cli.codec.column_blocks import SEGMENT
from rbe_cli.codec.fixed.fixed_levels import CELLS, Quantiser
from rbe_cli.codec.fixed.fixed_matrix import StepLevels
from rbe_cli.codec.product_programs import add_product
from rbe_cli.runtime.jit import program_code

Float32 = NDArray[np.float32]
_STEPS = np.exp2(np.arange(-128, 128) / 8).astype(np.float32)
_ONE = np.float32(1)


@program_code
def quantise_fixed_rows(
    arithmetic: Any,
    remains: Float32,
    carried: Float32,
    lower: Float32,
    mixing: Float32,
    edges: NDArray[np.int64],
    cost: Float32,
    levels: Float32,
    level_codes: NDArray[np.uint8],
    largest: float,
    limit: int,
    scratch: Float32,
    factors: Float32,
    codes: NDArray[np.uint8],
    row_levels: StepLevels,
) -> None:
    """Quantise rows `[rows, N]` from the last to the first, in units of the columns' steps.

    `remains` holds the weights, and receives their errors. `carried` holds the feedback of the rows
    below these, and `lower` holds L of these rows. Blocks of columns begin and end at `edges`.
    `cost` is the cost of an error by its column. The fields of the quantiser are separate
    arguments. The largest level of a row step is `limit`. `scratch` `[2, N]` and `factors`
    `[rows]` are overwritten.
    """
    quantiser = Quantiser(levels, level_codes, largest)
    rows, columns = remains.shape
    feedback = scratch[0]  # from the rows below
    target = scratch[1]  # weights plus feedback from the rows below and the columns before
    for i in range(rows - 1, -1, -1):
        for n in range(columns):
            feedback[n] = carried[i, n]
        if lower.size > 0:
            for k in range(i + 1, rows):
                factors[k] = lower[k, i]
            add_product(factors[i + 1 : rows], remains[i + 1 :], 0, feedback)
        for n in range(columns):
            target[n] = remains[i, n] + feedback[n]
        level = _best_level(target, cost, quantiser, limit)
        row_levels[i] = level
        step = _STEPS[level + 128]
        for block in range(mixing.shape[0]):
            start, stop = edges[block], edges[block + 1]
            for first in range(start, stop, SEGMENT):
                last = min(first + SEGMENT, stop)
                for n in range(first, last):
                    cell = cell_of(target[n] / step, quantiser.levels)
                    codes[i, n] = quantiser.codes[cell]
                    remains[i, n] -= step * quantiser.levels[cell]
                    feedback[n] += remains[i, n]
                    if mixing.size > 0:
                        row = mixing[block, n - start]
                        for later in range(n + 1, last):
                            target[later] += feedback[n] * row[later - start]
                if mixing.size > 0:
                    add_product(
                        feedback[first:last],
                        mixing[block, first - start : last - start],
                        last - start,
                        target[start:stop],
                    )


@program_code
def cell_of(scaled: np.float32, levels: Float32) -> np.int64:
    """Return the cell of a target over its step. Values beyond the table are clipped."""
    cells = len(levels) // 2
    last = np.float32(cells - 1)
    bounded = np.minimum(np.maximum(scaled * CELLS, -last - _ONE), last)
    return np.int64(np.floor(bounded)) + cells


@program_code
def _best_level(target: Float32, cost: Float32, quantiser: Quantiser, limit: int) -> int:
    """Return the best level of a row step, searching down from the lowest that clips nothing.

    If the costs differ widely, a few columns decide the error, which then has several minima.
    """
    largest = 0.0
    for n in range(target.shape[0]):
        largest = max(largest, abs(target[n]))
    ratio = min(max(largest / quantiser.largest, 1e-30), 1e30)
    level = best = min(max(int(np.ceil(8 * log2_of(ratio))), -128), limit)
    error = least = _weighted_error(target, cost, quantiser, level)
    while level > -128 and error <= 2 * least:
        level -= 1
        error = _weighted_error(target, cost, quantiser, level)
        if error < least:
            best, least = level, error
    return best


@program_code
def _weighted_error(target: Float32, cost: Float32, quantiser: Quantiser, level: int) -> float:
    """Return the sum of squared errors at a row step, each times the cost of its column."""
    step, total = _STEPS[level + 128], 0.0
    for n in range(target.shape[0]):
        error = target[n] - step * quantiser.levels[cell_of(target[n] / step, quantiser.levels)]
        total += cost[n] * error * error
    return total
