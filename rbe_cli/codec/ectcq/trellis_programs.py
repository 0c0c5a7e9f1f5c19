"""Run the trellis (trellis.py) in compiled code: the Viterbi search."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.trellis import Search
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER, MAX_LEVEL, MIN_LEVEL
from rbe_cli.codec.entropy.symbol_programs import symbol_of
from rbe_cli.runtime.jit import program_code


@program_code
def _bits(q: int, level: int, z: int, search: Search) -> float:
    """Return the bits that the entropy model charges for q."""
    symbol = symbol_of(q, search.shift[np.uint64(level)])
    return search.bits[np.uint64(level), np.uint64(z), np.uint64(symbol)]


@program_code
def _best(x: float, level: int, subset: int, search: Search) -> tuple[float, int]:
    """Return the smallest cost of a weight x with an integer of a subset, and its q."""
    z, subsets = subset >> 1, search.subsets
    residue, lowest, highest = subsets[subset, 0], subsets[subset, 1], subsets[subset, 2]
    near = min(max(4.0 * np.rint(0.25 * (x - residue)) + residue, lowest), highest)
    cheaper = near - 4.0 if near > 0.0 else near + 4.0  # in bits: the next one towards 0
    q, other = (int(near) - z) >> 1, (int(cheaper) - z) >> 1
    cost = (x - near) ** 2 + search.rate_weight * _bits(q, level, z, search)
    second = (x - cheaper) ** 2 + search.rate_weight * _bits(other, level, z, search)
    return (second, other) if second < cost else (cost, q)


@program_code
def quantise_segment(
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    search: Search,
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Choose the integers of a segment of a row by the Viterbi algorithm, ending in any state.

    Args:
        target: `[columns]`, weights in units of the step.
        row_level, column_levels: their sum is the level of each weight in the entropy model.
        search: a search with room for the columns.
        out: `[columns]`, receives n = 2 q + z.
        start: the state of the trellis before the segment.

    Returns:
        The state after the segment.
    """
    labels, choices, decisions = search.labels, search.choices, search.decisions
    columns, states = target.shape[0], labels.shape[0]
    half = states >> 1
    metric, updated, cost = search.metrics[0], search.metrics[1], search.costs
    metric[:] = np.inf
    metric[start] = 0.0
    for j in range(columns):
        level = min(max(row_level + column_levels[j], MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
        x = min(max(float(target[j]), -MAX_INTEGER), MAX_INTEGER)
        for subset in range(4):
            cost[subset], choices[j, subset] = _best(x, level, subset, search)
        for a in range(half):
            # The top bit is set in h0 and not in h1. Therefore the states a and a + half have
            # the same z and different parities. Both lead to the states 2 a and 2 a + 1.
            label = labels[a]
            same, flipped = cost[label], cost[label ^ 1]
            low, high = metric[a], metric[a + half]
            decisions[j, 2 * a] = high + flipped < low + same
            decisions[j, 2 * a + 1] = high + same < low + flipped
            updated[2 * a] = min(low + same, high + flipped)
            updated[2 * a + 1] = min(low + flipped, high + same)
        metric, updated = updated, metric
    end = state = int(np.argmin(metric))
    for j in range(columns - 1, -1, -1):
        u = state & 1
        state = (state >> 1) | (decisions[j, state] * half)
        label = labels[state]
        out[j] = 2 * choices[j, label ^ u] + (label >> 1)
    return end


@program_code
def quantise_segment_program(
    arithmetic: Any,
    target: NDArray[np.float32],
    row_level: int,
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
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Run `quantise_segment` with the fields of its search as separate arguments."""
    search = Search(labels, subsets, rate_weight, bits, shift, choices, decisions, metrics, costs)
    return quantise_segment(target, row_level, column_levels, search, out, start)
