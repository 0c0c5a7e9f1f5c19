"""Define the programs of the error feedback, which are compiled (error_feedback.py)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.trellis import Search
from rbe_cli.codec.ectcq.trellis_programs import quantise_segment
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE
from rbe_cli.codec.product_programs import add_product
from rbe_cli.runtime.jit import program_code

Float32 = NDArray[np.float32]


@program_code
def quantise_rows(
    arithmetic: Any,
    weights: Float32,
    carried: Float32,
    lower: Float32,
    mixing: Float32,
    column_levels: NDArray[np.int16],
    labels: NDArray[np.uint8],
    subsets: NDArray[np.float64],
    rate_weight: float,
    bits: NDArray[np.float32],
    shift: NDArray[np.int64],
    choices: NDArray[np.int32],
    decisions: NDArray[np.uint8],
    metrics: NDArray[np.float64],
    costs: NDArray[np.float64],
    scratch: Float32,
    factors: Float32,
    errors: Float32,
    out: NDArray[np.int32],
) -> None:
    """Quantise rows `[rows, B]` from the last to the first, in units of the columns' steps.

    `carried` holds the feedback of the rows below these, and `lower` holds L of these rows. One
    search decides as many columns as it has room for; its fields are separate arguments.
    `errors` receives weights minus integers, and `out` the integers. `scratch` `[3, B]` and
    `factors` `[rows]` are overwritten.
    """
    search = Search(labels, subsets, rate_weight, bits, shift, choices, decisions, metrics, costs)
    rows, width = weights.shape
    segment = choices.shape[0]
    feedback = scratch[0]  # from the rows below
    target = scratch[1]  # weights plus feedback from the rows below and the columns before
    inverse_scale = scratch[2]
    for k in range(width):
        inverse_scale[k] = 2.0 ** (-column_levels[k] / LEVELS_PER_OCTAVE)
    for i in range(rows - 1, -1, -1):
        for k in range(width):
            feedback[k] = carried[i, k]
        if lower.size > 0:
            for k in range(i + 1, rows):
                factors[k] = lower[k, i]
            add_product(factors[i + 1 : rows], errors[i + 1 :], 0, feedback)
        power = 0.0
        for k in range(width):
            target[k] = weights[i, k] + feedback[k]
            power += np.float64(target[k] * inverse_scale[k]) ** 2
        row_level = int(np.rint(0.5 * LEVELS_PER_OCTAVE * np.log2(max(power / width, 1e-12))))
        state = 0
        for first in range(0, width, segment):
            last = min(first + segment, width)
            state = quantise_segment(
                target[first:last], row_level, column_levels[first:last],
                search, out[i, first:last], state,
            )  # fmt: skip
            for k in range(first, last):
                errors[i, k] = weights[i, k] - np.float32(out[i, k])
                feedback[k] += errors[i, k]
            if mixing.size > 0:
                add_product(feedback[first:last], mixing[first:last], last, target)
