"""Quantise with error feedback: weights not yet written make up for the errors of the others.

The model's loss grows by tr(E^T H E G) / 2 when a matrix errs by E: H is the second moment of
its inputs, G that of the loss's gradient with respect to its outputs (a Kronecker factored
Fisher matrix; Martens and Grosse 2015; for rounding, Tseng et al. 2025, arXiv 2505.22988).
With H = L D L^T and G = M C M^T, L and M unit lower triangular, the loss is
sum_ij D_i C_j (t_ij - w_ij)^2 if each weight's target t adds to it the errors of the weights
already written: the rows below by L, and in all these rows the columns before by M. With G
the identity this is LDLQ (Chee et al. 2023) and GPTQ (Frantar et al. 2022).
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import SEGMENT
from rbe_cli.codec.ectcq import scales
from rbe_cli.codec.ectcq.trellis import DEFAULT_OPTIONS, QuantiserOptions, make_search
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.runtime.libraries import QUANTISE_ROWS
from rbe_cli.runtime.native import load

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RATE_WEIGHT = 0.25  # lambda: squared steps that a bit is worth to the Viterbi search
_ROWS = 64  # rows quantised between two matrix products


def quantise(
    weights: Float32,
    step_levels: NDArray[np.int16],
    step: float,
    inputs: InputFactor,
    outputs: OutputFactor,
    options: QuantiserOptions = DEFAULT_OPTIONS,
) -> NDArray[np.int32]:
    """Write a block of weights as trellis integers.

    Args:
        weights: float32 `[K, B]`, columns in the trellis's order.
        step_levels: int16 `[B]`, the columns' steps over `step`, in eighths of an octave.
        step: of the quantiser, in the weights' units.
        inputs, outputs: what an error costs.
        options: of the trellis.

    Returns:
        int32 `[K, B]`, columns in the trellis's order.
    """
    # Each end of a search costs a little, and only feedback from column to column needs it.
    segment = SEGMENT if outputs.mixing.size else weights.shape[1]
    search = make_search(segment, options, RATE_WEIGHT)
    steps = scales.steps(step, step_levels)  # [B]
    with np.errstate(over="ignore"):
        scaled = weights[inputs.order] / steps
    # What no integer reaches is clipped, and that error is not for other weights to make up for.
    np.clip(scaled, -MAX_INTEGER, MAX_INTEGER, out=scaled)
    mixing = outputs.mixing * steps[:, None] / steps if outputs.mixing.size else outputs.mixing
    levels = scales.column_levels(scaled)
    carried = np.zeros_like(scaled)
    errors = np.empty_like(scaled)
    integers = np.empty(weights.shape, np.int32)
    lower = inputs.lower
    scratch, factors = np.empty((3, weights.shape[1]), np.float32), np.empty(_ROWS, np.float32)
    (quantise_rows,) = load([QUANTISE_ROWS])
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = np.ascontiguousarray(lower[part, part])
        quantise_rows(
            scaled[part], carried[part], inner, mixing, levels, *search,
            scratch, factors, errors[part], integers[part],
        )  # fmt: skip
        if lower.size and start:
            carried[:start] += lower[part, :start].T @ errors[part]
    return integers[np.argsort(inputs.order)]
