"""Improve the codes of a matrix by coordinate descent on the cost of its errors.

Error feedback (fixed_encoder.py) chooses a code when the weights after it are not written yet. Here
each code is chosen again, given all others, so that tr(E^T H E G) is least (error_cost.py). It
changes only if the cost falls. Column after column is visited, in several rounds. In the first
round of 2-bit codes a column gets another step too, if its codes then cost less together; with more
bits that gains nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed.fixed_levels import Quantised, largest_step_level, quantiser
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, StepLevels, steps
from rbe_cli.runtime.libraries import DESCEND_COLUMNS
from rbe_cli.runtime.native import load

Float32 = NDArray[np.float32]
Codes = NDArray[np.uint8]
_ROUNDS = 6
_PASSES = 2  # through a column, each time it is visited
_STEP_REACH = {2: 1, 4: 0, 8: 0}  # by bits: levels by which a step may change in the first round
_COLUMNS = 64  # visited between two matrix products


class _Rows(NamedTuple):
    """Hold what all columns share.

    Attributes:
        within: H, float32 `[K, K]`; `[0, 0]` if it is diagonal.
        diagonal: the diagonal of H, float32 `[K]`.
        steps: the rows' steps, float32 `[K]`.
        limit: the largest level of a column's step.
    """

    within: Float32
    diagonal: Float32
    steps: Float32
    limit: int


def descend(
    weights: Float32,
    bits: int,
    start: Quantised,
    inputs: InputFactor,
    outputs: Sequence[OutputFactor],
) -> Quantised:
    """Return codes and columns' steps whose errors cost less.

    Args:
        weights: float32 `[K, N]`.
        bits: bits per weight: 2, 4 or 8.
        start: the quantised matrix to begin with. It is not changed.
        inputs, outputs: the cost of errors by row, and by column for each column block.
    """
    mixed = inputs.lower.size or any(factor.mixing.size for factor in outputs)
    if not mixed and not _STEP_REACH[bits]:  # each code is the nearest already
        return start
    within, diagonal = inputs.moment()
    row_steps = steps(start.row_levels)
    limit = largest_step_level(bits, start.unit * float(row_steps.max()))
    rows = _Rows(within, diagonal, row_steps, limit)
    codes, column_levels = start.codes.copy(), start.column_levels.copy()
    for part, factor in zip(column_blocks(weights.shape[1]), outputs, strict=True):
        own, levels = np.ascontiguousarray(codes[:, part].T), column_levels[part]
        target = np.ascontiguousarray(weights[:, part].T) / np.float32(start.unit)
        moment = factor.moment()
        for number in range(_ROUNDS):
            reach = 0 if number else _STEP_REACH[bits]
            _visit_columns(target, bits, rows, moment, reach, own, levels)
        codes[:, part] = own.T
    return Quantised(codes, start.row_levels, column_levels, start.unit)


def _visit_columns(
    target: Float32,
    bits: int,
    rows: _Rows,
    moment: tuple[Float32, Float32],
    reach: int,
    codes: Codes,
    levels: StepLevels,
) -> None:
    """Visit each column of a block once, and change its codes and the level of its step.

    Args:
        target: the weights over the unit, float32 `[B, K]`.
        bits: bits per weight.
        rows: what all columns share.
        moment: G of the block and its diagonal (`OutputFactor.moment`).
        reach: by how many levels a step may change.
        codes: uint8 `[B, K]`, changed.
        levels: int8 `[B]`, changed.
    """
    across, weight = moment
    code_levels, cells = LAYOUTS[bits].levels, quantiser(bits)
    errors = code_levels[codes] * (steps(levels)[:, None] * rows.steps) - target
    sums, trials = np.empty((2, len(rows.steps)), np.float32), np.empty((2, codes.shape[1]), "u1")
    (program,) = load([DESCEND_COLUMNS])
    for start in range(0, len(codes), _COLUMNS):
        part = slice(start, min(start + _COLUMNS, len(codes)))
        if across.size:
            mixed, own = product(across[part], errors), across[part, part]
        else:
            mixed, own = weight[part, None] * errors[part], np.diag(weight[part])
        slopes = product(mixed, rows.within) if rows.within.size else mixed * rows.diagonal
        program(
            slopes, np.ascontiguousarray(own), rows.within, rows.diagonal, rows.steps,
            code_levels, cells.levels, cells.codes, reach, rows.limit, _PASSES,
            sums, trials, codes[part], levels[part],
        )  # fmt: skip
        scale = steps(levels[part])[:, None] * rows.steps
        errors[part] = code_levels[codes[part]] * scale - target[part]
