"""Define the programs of the error feedback, which are compiled (error_feedback.py)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import exp2
from rbe_cli.algebra.logarithm_program import log2_of
from rbe_cli.codec.ectcq.error_feedback import GROUP, GROUP_COLUMNS
from rbe_cli.codec.ectcq.trellis import PANEL, Search
from rbe_cli.codec.ectcq.trellis_programs import quantise_segment
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE
from rbe_cli.codec.product_programs import add_product
from rbe_cli.runtime.array_views import address_of_array
from rbe_cli.runtime.floating import fused_float
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    LANES,
    fused,
    load_float,
    load_floats,
    splat_float,
    store_floats,
)

Float32 = NDArray[np.float32]
_INVERSE_SCALES = exp2(-np.arange(-128, 128) / LEVELS_PER_OCTAVE).astype(np.float32)


@program_code
def quantise_rows(
    arithmetic: Any,
    weights: Float32,
    carried: Float32,
    lower: Float32,
    mixing: Float32,
    column_levels: NDArray[np.int16],
    widths: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    subsets: NDArray[np.float64],
    rate_weight: float,
    bits: NDArray[np.float32],
    shift: NDArray[np.int64],
    scaled: NDArray[np.float32],
    levels: NDArray[np.int32],
    choices: NDArray[np.int32],
    costs: NDArray[np.float64],
    decisions: NDArray[np.uint8],
    metrics: NDArray[np.float64],
    scratch: Float32,
    factors: Float32,
    states: NDArray[np.int64],
    errors: Float32,
    out: NDArray[np.int32],
) -> None:
    """Quantise rows `[rows, B]` from the last to the first, in units of the columns' steps.

    `carried` holds the feedback of the rows below these, and `lower` holds L of these rows. One
    search decides as many columns as it has room for; its fields are separate arguments. `widths`
    `[rows, panels]` limits integers (`Search.subsets`). `errors` receives weights minus integers,
    `out` the integers. `scratch` `[2 * GROUP + 1, B]`, `factors` `[rows]` and `states` `[2, GROUP]`
    are overwritten. Without mixing, one row follows the other. With it, `GROUP` rows go through the
    columns together, some columns at a time, so that M is read once for all of them. The level of a
    row in the entropy model is then that of its target without the feedback of its group's rows.
    """
    search = Search(
        labels, subsets, rate_weight, bits, shift, scaled, levels, choices, costs, decisions,
        metrics,
    )  # fmt: skip
    rows, width = weights.shape
    inverse_scale = scratch[2 * GROUP]
    for k in range(width):
        inverse_scale[k] = _INVERSE_SCALES[column_levels[k] + 128]
    group, at_once = 1, width
    if mixing.size > 0:
        group, at_once = GROUP, GROUP_COLUMNS
    for stop in range(rows, 0, -group):
        count = min(group, stop)
        feedback, target = scratch[:count], scratch[GROUP : GROUP + count]
        for r in range(count):
            row = stop - 1 - r
            _begin_row(weights, carried, lower, factors, errors, row, stop, feedback[r], target[r])
            states[0, r] = _row_level(target[r], inverse_scale)
            states[1, r] = 0
        for first in range(0, width, at_once):
            last = min(first + at_once, width)
            for r in range(count):
                row = stop - 1 - r
                for before in range(row + 1, stop):
                    _feed_back(
                        lower, row, before, errors[before, first:last], feedback[r, first:last],
                        target[r, first:last],
                    )  # fmt: skip
                states[1, r] = _quantise_columns(
                    arithmetic, weights[row], mixing, column_levels, widths[row], search,
                    feedback[r], target[r], errors[row], out[row], states[0, r], states[1, r],
                    first, last,
                )  # fmt: skip
            if last < width:
                _mix(feedback, mixing, target, first, last)


@program_code
def _begin_row(
    weights: Float32,
    carried: Float32,
    lower: Float32,
    factors: Float32,
    errors: Float32,
    row: int,
    stop: int,
    feedback: Float32,
    target: Float32,
) -> None:
    """Set the feedback of the rows from `stop` on, and the target that follows from it."""
    for k in range(weights.shape[1]):
        feedback[k] = carried[row, k]
    if lower.size > 0:
        for k in range(stop, len(weights)):
            factors[k] = lower[k, row]
        add_product(factors[stop : len(weights)], errors[stop:], 0, feedback)
    for k in range(weights.shape[1]):
        target[k] = weights[row, k] + feedback[k]


@program_code
def _row_level(target: Float32, inverse_scale: Float32) -> int:
    """Return the level of a row in the entropy model."""
    power = 0.0
    for k in range(target.shape[0]):
        power += np.float64(target[k] * inverse_scale[k]) ** 2
    mean = max(power / target.shape[0], 1e-12)
    return int(np.rint(0.5 * LEVELS_PER_OCTAVE * log2_of(mean)))


@program_code
def _feed_back(
    lower: Float32, row: int, before: int, errors: Float32, feedback: Float32, target: Float32
) -> None:
    """Add the feedback of a row of the same group to some columns."""
    if lower.size > 0:
        factor = lower[before, row]
        for k in range(errors.shape[0]):
            feedback[k] = fused_float(factor, errors[k], feedback[k])
            target[k] = fused_float(factor, errors[k], target[k])


@program_code
def _quantise_columns(
    arithmetic: Any,
    weights: Float32,
    mixing: Float32,
    column_levels: NDArray[np.int16],
    widths: NDArray[np.uint8],
    search: Search,
    feedback: Float32,
    target: Float32,
    errors: Float32,
    out: NDArray[np.int32],
    row_level: int,
    state: int,
    start: int,
    stop: int,
) -> int:
    """Quantise some columns of a row, and return the state of the trellis after them."""
    segment = search.decisions.shape[0]
    for first in range(start, stop, segment):
        last = min(first + segment, stop)
        state = quantise_segment(
            arithmetic, target[first:last], row_level, column_levels[first:last],
            widths[first // PANEL :], search, out[first:last], state,
        )  # fmt: skip
        for k in range(first, last):
            errors[k] = weights[k] - np.float32(out[k])
            feedback[k] += errors[k]
        if mixing.size > 0:
            add_product(feedback[first:last], mixing[first:last], last, target[:stop])
    return state


@program_code
def _mix(feedback: Float32, mixing: Float32, target: Float32, first: int, last: int) -> None:
    """Add what `GROUP_COLUMNS` columns, `first` to before `last`, change to the targets after."""
    rows, width = target.shape
    whole = last + (width - last) // LANES * LANES
    stride = 4 * width
    fours = rows // 4 * 4
    for r in range(0, fours, 4):
        own = address_of_array(feedback) + r * stride
        out = address_of_array(target) + r * stride
        for j in range(first, last, 4):
            _mix_4_rows(
                own + 4 * j, address_of_array(mixing) + j * stride, out, stride, 4 * last, 4 * whole
            )
        for i in range(r, r + 4):
            _mix_row(feedback[i], mixing, target[i], first, last, whole)
    for r in range(fours, rows):
        add_product(feedback[r, first:last], mixing[first:last], last, target[r])


@program_code
def _mix_4_rows(own: int, mixing: int, out: int, stride: int, first: int, last: int) -> None:
    """Add 4 columns' products with 4 rows of M to the vectors of 4 targets, at addresses."""
    a0, a1, a2, a3 = _four_splats(own)
    b0, b1, b2, b3 = _four_splats(own + stride)
    c0, c1, c2, c3 = _four_splats(own + 2 * stride)
    d0, d1, d2, d3 = _four_splats(own + 3 * stride)
    for k in range(first, last, 4 * LANES):
        m0, m1 = load_floats(mixing + k), load_floats(mixing + stride + k)
        m2, m3 = load_floats(mixing + 2 * stride + k), load_floats(mixing + 3 * stride + k)
        place = out + k
        _add_four(place, a0, a1, a2, a3, m0, m1, m2, m3)
        _add_four(place + stride, b0, b1, b2, b3, m0, m1, m2, m3)
        _add_four(place + 2 * stride, c0, c1, c2, c3, m0, m1, m2, m3)
        _add_four(place + 3 * stride, d0, d1, d2, d3, m0, m1, m2, m3)


@program_code
def _four_splats(place: int) -> Any:
    return (
        splat_float(load_float(place)),
        splat_float(load_float(place + 4)),
        splat_float(load_float(place + 8)),
        splat_float(load_float(place + 12)),
    )


@program_code
def _add_four(
    place: int, f0: Any, f1: Any, f2: Any, f3: Any, m0: Any, m1: Any, m2: Any, m3: Any
) -> None:
    """Add four products to the vector at an address."""
    low = fused(f1, m1, fused(f0, m0, load_floats(place)))
    store_floats(place, fused(f3, m3, fused(f2, m2, low)))


@program_code
def _mix_row(
    feedback: Float32, mixing: Float32, target: Float32, first: int, last: int, start: int
) -> None:
    """Add the products of one row to the targets from `start` on, one after the other."""
    for k in range(start, target.shape[0]):
        found = target[k]
        for j in range(first, last):
            found = fused_float(feedback[j], mixing[j, k], found)
        target[k] = found
