"""Quantise weights with error feedback: later weights correct the errors of earlier ones.

An error E in a matrix increases the loss of the model by tr(E^T H E G) / 2. H is the second moment
of the matrix's inputs, and G that of the gradient of the loss with respect to its outputs
(Kronecker factors of the Fisher matrix; Martens and Grosse 2015; for rounding, Tseng et al. 2025,
arXiv 2505.22988). With H = L D L^T and G = M C M^T, L and M unit lower triangular, twice this loss
is sum_ij D_i C_j (t_ij - w_ij)^2. Here w is a quantised weight, and its target t is the weight plus
a combination of the errors of the weights already quantised: those of the rows below, by L, and in
all these rows those of the columns before, by M. If G is the identity, this is LDLQ (Chee et al.
2023), which is equivalent to GPTQ (Frantar et al. 2022).
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import SEGMENT
from rbe_cli.codec.ectcq.tile_widths import TILE_ROWS, feedback_power, tile_widths
from rbe_cli.codec.ectcq.trellis import DEFAULT_OPTIONS, QuantiserOptions, make_search
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.runtime.libraries import QUANTISE_ROWS
from rbe_cli.runtime.native import load

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
GROUP = 8  # rows that go through the columns together, if errors of columns are mixed
GROUP_COLUMNS = 128  # that a row of a group goes through before the next row does
_ROWS = 64  # rows quantised between two matrix products


def quantise(
    weights: Float32,
    column_levels: scales.Levels,
    step_levels: scales.Levels,
    step: float,
    inputs: InputFactor,
    outputs: OutputFactor,
    options: QuantiserOptions = DEFAULT_OPTIONS,
) -> NDArray[np.int32]:
    """Quantise a block of weights to trellis integers, with error feedback.

    Args:
        weights: float32 `[K, B]`, columns in the order of the trellis.
        column_levels: int16 `[B]`, those with which the integers will be coded.
        step_levels: int16 `[B]`, log2 of the columns' steps over `step`, in eighths.
        step: the quantisation step of level 0, in the units of the weights.
        inputs, outputs: the cost of errors.
        options: the options of the trellis.

    Returns:
        The integers, int32 `[K, B]`, columns in the order of the trellis.
    """
    # The end of each search costs a little. Only feedback from column to column needs short ones.
    segment = SEGMENT if outputs.mixing.size else weights.shape[1]
    search = make_search(segment, options)
    steps = scales.steps(step, step_levels)  # [B]
    with np.errstate(over="ignore"):
        scaled = weights[inputs.order] / steps
    # Weights beyond the largest integer are clipped, and other weights do not correct that error.
    np.clip(scaled, -MAX_INTEGER, MAX_INTEGER, out=scaled)
    mixing = outputs.mixing * steps[:, None] / steps if outputs.mixing.size else outputs.mixing
    natural = np.argsort(inputs.order)
    power = feedback_power(scaled, inputs.lower, mixing)
    widths = tile_widths(scaled[natural], power[natural], inputs.diagonal[natural])
    row_widths = widths[inputs.order // TILE_ROWS]
    carried = np.zeros_like(scaled)
    errors = np.empty_like(scaled)
    integers = np.empty(weights.shape, np.int32)
    lower = inputs.lower
    scratch = np.empty((2 * GROUP + 1, weights.shape[1]), np.float32)
    factors, states = np.empty(_ROWS, np.float32), np.empty((2, GROUP), np.int64)
    (quantise_rows,) = load([QUANTISE_ROWS])
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = np.ascontiguousarray(lower[part, part])
        quantise_rows(
            scaled[part], carried[part], inner, mixing, column_levels, row_widths[part], *search,
            scratch, factors, states, errors[part], integers[part],
        )  # fmt: skip
        if lower.size and start:
            product(lower[part, :start].T, errors[part], carried[:start], adds=True)
    return integers[natural]
