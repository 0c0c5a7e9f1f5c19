"""Entropy-coded trellis quantisation (ECTCQ; Fischer and Wang 1992, Marcellin 1994).

A row of weights is written as integers n = 2 q + z. z is a function of the trellis's
state alone, and the next state follows from q's lowest bit, so the integers decode from
q without side information. The trellis is Ungerboeck's with 8 states (octal 13, 04).
The encoder finds the path of least squared error + lambda x bits with the Viterbi
algorithm, bits being what the entropy model charges.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy_model import (
    ESCAPE,
    MAX_INTEGER,
    MAX_LEVEL,
    MIN_LEVEL,
    SYMBOL_OFFSET,
)
from rbe_cli.jit import jit

STATES = 8


@jit()
def state_offset(state: int) -> int:
    """z of a state: parity of (state << 1) & 04."""
    return (state >> 1) & 1


@jit()
def next_state(state: int, q: int) -> int:
    """The state after q: shifts in q's lowest bit ^ parity of (state << 1) & 13 (octal)."""
    u = (q ^ state ^ (state >> 2)) & 1
    return ((state << 1) | u) & (STATES - 1)


@jit()
def symbol_of(q: int, shift: int) -> int:
    """The table symbol of q; `ESCAPE` if its high part is outside the table."""
    symbol = (q >> shift) + SYMBOL_OFFSET
    return symbol if 0 <= symbol < ESCAPE else ESCAPE


@jit()
def quantise_segment(
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    rate_weight: float,
    bits: NDArray[np.float32],
    shift: NDArray[np.int64],
    choices: NDArray[np.int32],
    decisions: NDArray[np.uint8],
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Integers of a stretch of a row by the Viterbi algorithm, ending in any state.

    Args:
        target: `[columns]`, weights in units of the step.
        row_level, column_levels: their sum is each weight's level in the entropy model.
        rate_weight: lambda, squared steps a bit.
        bits, shift: of `EntropyTables`.
        choices: scratch `[columns, 4]`, the best q for each (z, q & 1).
        decisions: scratch `[columns, STATES]`, 1 where the predecessor's top bit is set.
        out: `[columns]`, receives n = 2 q + z.
        start: the trellis state before the stretch.

    Returns:
        The state after it.
    """
    columns = target.shape[0]
    metric = np.full(STATES, np.inf)
    metric[start] = 0.0
    updated = np.empty(STATES)
    cost = np.empty(4)
    for j in range(columns):
        level = min(max(row_level + column_levels[j], MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
        x = min(max(float(target[j]), -MAX_INTEGER + 4.0), MAX_INTEGER - 4.0)
        low_bits = shift[level]
        for subset in range(4):
            z, parity = subset >> 1, subset & 1
            near = 2 * int(np.rint((x - z - 2 * parity) * 0.25)) + parity
            toward_zero = near - 2 if 2 * near + z > 0 else near + 2
            error, other = x - (2 * near + z), x - (2 * toward_zero + z)
            best = error * error + rate_weight * bits[level, z, symbol_of(near, low_bits)]
            second = other * other + rate_weight * bits[level, z, symbol_of(toward_zero, low_bits)]
            if second < best:
                best, near = second, toward_zero
            cost[subset], choices[j, subset] = best, near
        for state in range(STATES):
            a = state >> 1
            b = a | (STATES >> 1)
            u = state & 1
            via_a = metric[a] + cost[2 * state_offset(a) + ((u ^ a ^ (a >> 2)) & 1)]
            via_b = metric[b] + cost[2 * state_offset(b) + ((u ^ b ^ (b >> 2)) & 1)]
            decisions[j, state] = via_b < via_a
            updated[state] = min(via_a, via_b)
        metric, updated = updated, metric
    end = state = int(np.argmin(metric))
    for j in range(columns - 1, -1, -1):
        u = state & 1
        state = (state >> 1) | (decisions[j, state] * (STATES >> 1))
        z = state_offset(state)
        out[j] = 2 * choices[j, 2 * z + ((u ^ state ^ (state >> 2)) & 1)] + z
    return end
