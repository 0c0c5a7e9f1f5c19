"""Quantise weights to a fixed number of bits, with error feedback (ectcq/error_feedback.py).

Divided by the scales of rows and columns, weights are close to Gaussian noise, for which the tables
of levels are made. Feedback changes the values of a row before it is quantised. Therefore the step
of a row is chosen at that moment: the one with the smallest error. Coordinate descent then chooses
all codes again (coordinate_descent.py).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import log2
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed.coordinate_descent import descend
from rbe_cli.codec.fixed.fixed_levels import FLOAT32_MAX, Quantised, largest_step_level, quantiser
from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix, StepLevels, steps
from rbe_cli.runtime.libraries import QUANTISE_FIXED_ROWS
from rbe_cli.runtime.native import load
from rbe_cli.weights import panel_layout

Float32 = NDArray[np.float32]

_SMALLEST_UNIT = 1e-30  # 2 ** -16 times it is still a normal number
_ROWS = 64  # rows quantised between two matrix products


def encode_matrix(
    weights: Float32, bits: int, inputs: InputFactor, outputs: Sequence[OutputFactor]
) -> FixedMatrix:
    """Encode a matrix with 2, 4 or 8 bits per weight. The arguments are those of `quantise`."""
    found = descend(weights, bits, quantise(weights, bits, inputs, outputs), inputs, outputs)
    codes, row_levels, column_levels, unit = found
    values = panel_layout.pack(codes, bits)
    return FixedMatrix(codes.shape, bits, values, row_levels, column_levels, unit)


def quantise(
    weights: Float32, bits: int, inputs: InputFactor, outputs: Sequence[OutputFactor]
) -> Quantised:
    """Quantise a matrix to 2, 4 or 8 bits per weight, each of them once.

    Args:
        weights: float32 `[K, N]`.
        bits: bits per weight.
        inputs: the cost of an error by its row.
        outputs: the cost of an error by its column, for each column block.
    """
    column_levels, unit = _column_scales(weights)
    column_steps = np.float32(unit) * steps(column_levels)
    # As in error_feedback.py, but all blocks of columns together, because they share the row steps.
    blocks = column_blocks(weights.shape[1])
    edges = np.array([0, *(part.stop for part in blocks)])
    order = np.concatenate(
        [part.start + factor.order for part, factor in zip(blocks, outputs, strict=True)]
    )
    place = np.ix_(inputs.order, order)
    ordered_steps = column_steps[order]
    remains = weights[place] / ordered_steps
    carried = np.zeros_like(remains)  # feedback from the rows quantised before
    mixing = _scaled_mixing(outputs, np.split(ordered_steps, edges[1:-1]))
    cost = _column_cost(outputs, column_steps)[order]
    limit = largest_step_level(bits, float(column_steps.max()))
    codes, row_levels = np.empty(weights.shape, np.uint8), np.empty(len(weights), np.int8)
    lower = inputs.lower
    scratch, factors = np.empty((2, weights.shape[1]), np.float32), np.empty(_ROWS, np.float32)
    (quantise_rows,) = load([QUANTISE_FIXED_ROWS])
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = np.ascontiguousarray(lower[part, part])
        quantise_rows(
            remains[part], carried[part], inner, mixing, edges, cost, *quantiser(bits),
            limit, scratch, factors, codes[part], row_levels[part],
        )  # fmt: skip
        if lower.size and start:
            product(lower[part, :start].T, remains[part], carried[:start], adds=True)
    natural = np.empty_like(codes)
    natural[place] = codes
    return Quantised(natural, row_levels[np.argsort(inputs.order)], column_levels, unit)


def _column_scales(weights: Float32) -> tuple[StepLevels, float]:
    """Return the levels of the columns' scales, and the unit: the step of level 0.

    The scales of the rows are divided out first.
    """
    rows = np.einsum("kn,kn->k", weights, weights, dtype=np.float64)
    inverse = np.divide(1, rows, out=np.zeros_like(rows), where=rows > 0)
    power = np.einsum("kn,kn,k->n", weights, weights, inverse)  # [N]
    ratio = np.maximum(power / (power.max() or 1.0), 2.0**-32)
    levels = np.rint(4 * log2(ratio)).astype(np.int8)
    scale = steps(levels).astype(np.float64)
    mean = np.einsum("kn,kn,n->", weights, weights, scale**-2) / weights.size
    unit = min(max(float(np.sqrt(mean)), _SMALLEST_UNIT), FLOAT32_MAX)
    return levels, float(np.float32(unit))


def _scaled_mixing(outputs: Sequence[OutputFactor], column_steps: Sequence[Float32]) -> Float32:
    """Return M of all blocks in units of the columns' steps, padded to `[blocks, B, B]`."""
    width = max(factor.mixing.shape[0] for factor in outputs)
    mixing = np.zeros((len(outputs), width, width), np.float32)
    for scaled, factor, own in zip(mixing, outputs, column_steps, strict=True):
        size = factor.mixing.shape[0]
        if size:
            scaled[:size, :size] = factor.mixing * own[:, None] / own
    return mixing


def _column_cost(outputs: Sequence[OutputFactor], column_steps: Float32) -> Float32:
    """Return the cost of an error of one step in each column, over the mean, float32 `[N]`."""
    diagonal = np.concatenate([factor.diagonal for factor in outputs])
    cost = diagonal * column_steps.astype(np.float64) ** 2
    return (cost / cost.mean()).astype(np.float32)
