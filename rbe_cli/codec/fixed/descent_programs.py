"""Define the program that searches codes by coordinate descent (coordinate_descent.py)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.fixed.fixed_matrix import StepLevels
from rbe_cli.codec.fixed.fixed_programs import cell_of
from rbe_cli.runtime.floating import fused_float
from rbe_cli.runtime.jit import program_code

Float32 = NDArray[np.float32]
Codes = NDArray[np.uint8]
_STEPS = np.exp2(np.arange(-128, 128) / 8).astype(np.float32)


@program_code
def descend_columns(
    arithmetic: Any,
    slopes: Float32,
    across: Float32,
    within: Float32,
    diagonal: Float32,
    row_steps: Float32,
    code_levels: Float32,
    levels: Float32,
    level_codes: Codes,
    reach: int,
    limit: int,
    passes: int,
    sums: Float32,
    trials: Codes,
    codes: Codes,
    step_levels: StepLevels,
) -> None:
    """Visit some columns of a matrix `[K, N]`, and give each weight the code that costs least.

    A column's step is changed too, by up to `reach` levels, if all of its codes together then cost
    less. The largest level is `limit`. Each attempt goes through the column `passes` times.

    `slopes` `[columns, K]` is H E G, and receives it after the changes. `across`
    `[columns, columns]` is G of these columns. `within` is H; it is `[0, 0]` if H is diagonal.
    `diagonal` `[K]` is that of H. `code_levels` are the levels by code, `levels` and `level_codes`
    those by cell (`Quantiser`). `sums` `[2, K]` and `trials` `[2, K]` are overwritten.
    """
    columns, rows = slopes.shape
    for i in range(columns):
        weight = across[i, i]
        if not weight > 0:
            continue
        level, least = int(step_levels[i]), 0.0
        for change in range(-reach, reach + 1):
            tried = int(step_levels[i]) + change
            if tried < -128 or tried > limit:
                continue
            for k in range(rows):
                sums[0, k] = slopes[i, k]
            step = _STEPS[tried + 128]
            growth = _descend(
                sums[0], weight, within, diagonal, row_steps, code_levels, levels, level_codes,
                _STEPS[step_levels[i] + 128], step, codes[i], trials[0],
            )  # fmt: skip
            for _ in range(1, passes):
                growth += _descend(
                    sums[0], weight, within, diagonal, row_steps, code_levels, levels, level_codes,
                    step, step, trials[0], trials[0],
                )  # fmt: skip
            if growth < least:
                level, least = tried, growth
                for k in range(rows):
                    sums[1, k] = sums[0, k]
                    trials[1, k] = trials[0, k]
        if least < 0:
            step_levels[i] = level
            for k in range(rows):
                codes[i, k] = trials[1, k]
                sums[1, k] -= slopes[i, k]  # becomes `weight` H e, of the column's change e
            for j in range(columns):
                share = across[j, i] / weight
                if share != 0:
                    for k in range(rows):
                        slopes[j, k] = fused_float(share, sums[1, k], slopes[j, k])


@program_code
def _descend(
    slopes: Float32,
    weight: np.float32,
    within: Float32,
    diagonal: Float32,
    row_steps: Float32,
    code_levels: Float32,
    levels: Float32,
    level_codes: Codes,
    step: np.float32,
    new_step: np.float32,
    codes: Codes,
    new_codes: Codes,
) -> float:
    """Write the new codes of a column, update its slopes, and return by how much the cost grows."""
    growth = 0.0
    for k in range(codes.shape[0]):
        value = code_levels[codes[k]] * (step * row_steps[k])
        scale = new_step * row_steps[k]
        curvature = weight * diagonal[k]
        target = (value - slopes[k] / curvature) / scale
        if not abs(target) < np.inf:  # so that no cell is that of NaN
            target = value / scale
        cell = cell_of(target, levels)
        new_codes[k] = level_codes[cell]
        change = levels[cell] * scale - value
        if change != 0:
            growth += change * (2 * slopes[k] + curvature * change)
            if within.size > 0:
                factor = weight * change
                row = within[k]
                for j in range(slopes.shape[0]):
                    slopes[j] = fused_float(factor, row[j], slopes[j])
            else:
                slopes[k] += curvature * change
    return growth
