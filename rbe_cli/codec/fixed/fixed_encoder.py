"""Quantise weights to a fixed number of bits, with error feedback (ectcq/error_feedback.py).

Divided by the scales of rows and columns, weights are close to Gaussian noise, for which the tables
of levels are made. Feedback changes the values of a row before it is quantised. Therefore the step
of a row is chosen at that moment: the one with the smallest error.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import log2
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, FixedMatrix, StepLevels, steps
from rbe_cli.runtime.libraries import QUANTISE_FIXED_ROWS
from rbe_cli.runtime.native import load
from rbe_cli.weights import panel_layout

Float32 = NDArray[np.float32]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_UNIT = 1e-30  # 2 ** -16 times it is still a normal number
CELLS = np.float32(16)  # per unit: the middles between levels are multiples of 1/16
_ROWS = 64  # rows quantised between two matrix products


class Quantiser(NamedTuple):
    """A table that maps a value to the nearest level, by cells of 1/16.

    Attributes:
        levels: float32 `[2 * cells]`, the level of each cell. The first cell begins at
            -cells / 16.
        codes: uint8 `[2 * cells]`, the code of each cell's level.
        largest: the largest level.
    """

    levels: Float32
    codes: NDArray[np.uint8]
    largest: float


class Quantised(NamedTuple):
    """A quantised matrix, which consists of codes and steps.

    Attributes:
        codes: uint8 `[K, N]`.
        row_levels: int8 `[K]`, the levels of the rows' steps.
        column_levels: int8 `[N]`, the levels of the columns' steps over `unit`.
        unit: the column step of level 0, which is the largest.
    """

    codes: NDArray[np.uint8]
    row_levels: StepLevels
    column_levels: StepLevels
    unit: float


def encode_matrix(
    weights: Float32, bits: int, inputs: InputFactor, outputs: Sequence[OutputFactor]
) -> FixedMatrix:
    """Encode a matrix with 2, 4 or 8 bits per weight. The arguments are those of `quantise`."""
    codes, row_levels, column_levels, unit = quantise(weights, bits, inputs, outputs)
    values = panel_layout.pack(codes, bits)
    return FixedMatrix(codes.shape, bits, values, row_levels, column_levels, unit)


def quantise(
    weights: Float32, bits: int, inputs: InputFactor, outputs: Sequence[OutputFactor]
) -> Quantised:
    """Quantise a matrix to 2, 4 or 8 bits per weight.

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
    largest = float(np.abs(LAYOUTS[bits].levels).max()) * float(column_steps.max())
    limit = math.floor(8 * log2(_FLOAT32_MAX / largest))
    codes, row_levels = np.empty(weights.shape, np.uint8), np.empty(len(weights), np.int8)
    lower = inputs.lower
    scratch, factors = np.empty((2, weights.shape[1]), np.float32), np.empty(_ROWS, np.float32)
    (quantise_rows,) = load([QUANTISE_FIXED_ROWS])
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = np.ascontiguousarray(lower[part, part])
        quantise_rows(
            remains[part], carried[part], inner, mixing, edges, cost, *quantiser(bits),
            min(limit, 127), scratch, factors, codes[part], row_levels[part],
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
    unit = min(max(float(np.sqrt(mean)), _SMALLEST_UNIT), _FLOAT32_MAX)
    return levels, float(np.float32(unit))


@cache
def quantiser(bits: int) -> Quantiser:
    """Return the quantiser of 2, 4 or 8 bits."""
    layout = LAYOUTS[bits]
    first = 1 if bits == 8 else 0  # leave out -128, because there is no +128
    levels, codes = layout.levels[first:], np.arange(first, 2**bits)
    cells = int(CELLS * np.ceil(levels[-1] + 1))
    inside = (np.arange(-cells, cells) + 0.5) / CELLS
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, inside)
    return Quantiser(levels[nearest], codes[nearest].astype(np.uint8), float(levels[-1]))


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
