"""Build the tables of the probability model of integers, with which rANS codes them.

Let sigma be the standard deviation of a weight in units of the quantisation step. The probability
of its integer n = 2 q + z is that of the cell [n - 1, n + 1] under the mixture
.97 N(0, sigma) + .03 N(0, 1.8 sigma). sigma is rounded to eighths of an octave: the `level` t
stands for sigma = 2 ** (t / 8). There is one table for each level and each z. If sigma is large,
only the high part h = q >> shift has a table. The low bits are nearly uniform and are stored
without a model.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
"""What a state of a trellis says of the integer after it, `[states]` (`trellis.state_labels`)."""
PROBABILITY_BITS = 12
LEVELS_PER_OCTAVE = 8
MIN_LEVEL = -24  # sigma = 1/8 of a step
MAX_LEVEL = 95  # sigma = 3756 steps
LEVELS = MAX_LEVEL - MIN_LEVEL + 1
LAST_WHOLE_LEVEL = 28  # the last one without low bits: h has a standard deviation of 2 ** 2.5
SYMBOLS = 64  # h + 32 for h in [-32, 30], and the escape
ESCAPE = SYMBOLS - 1
SYMBOL_OFFSET = 32
ESCAPE_BITS = 16  # an escape is followed by q + 2 ** 15
MAX_INTEGER = 32765  # the largest |n| that is encoded, so that q fits into an escape
LARGEST_INT16 = 1 << 15  # the largest |n| that a file can hold
_TOTAL = 1 << PROBABILITY_BITS
_TAIL_WEIGHT, _TAIL_WIDTH = 0.03, 1.8


class EntropyTables(NamedTuple):
    """The static tables of rANS, which are indexed `[level - MIN_LEVEL, z, ...]`.

    Attributes:
        frequency: uint16 `[LEVELS, 2, SYMBOLS]`, sums to 2 ** PROBABILITY_BITS; a symbol with
            frequency 0 is coded by an escape.
        cumulative: uint16 `[LEVELS, 2, SYMBOLS]`, exclusive prefix sums of `frequency`.
        slots: uint32 `[LEVELS, 2, 2 ** PROBABILITY_BITS]`, all that a decoder needs to know of a
            slot: the frequency of the symbol that owns it << 20, the symbol's h & 255 << 12, and
            the slot's distance from the symbol's first.
        shift: int64 `[LEVELS]`, number of low bits of q that are stored without a model.
        bits: float32 `[LEVELS, 2, SYMBOLS]`, the cost of a symbol in bits, including low bits and
            the payload of an escape. A symbol with frequency 0 costs an escape.
    """

    frequency: NDArray[np.uint16]
    cumulative: NDArray[np.uint16]
    slots: NDArray[np.uint32]
    shift: NDArray[np.int64]
    bits: NDArray[np.float32]


def _below(x: float, sigma: float) -> float:
    """Return the cumulative distribution of the mixture at `x`."""
    narrow = math.erf(x / (sigma * math.sqrt(2)))
    wide = math.erf(x / (_TAIL_WIDTH * sigma * math.sqrt(2)))
    return 0.5 + 0.5 * ((1 - _TAIL_WEIGHT) * narrow + _TAIL_WEIGHT * wide)


def level_shift(level: int) -> int:
    """Return the number of low bits, so that h has a standard deviation of at most 2 ** 2.5."""
    return max(0, -(-(level - LAST_WHOLE_LEVEL) // LEVELS_PER_OCTAVE))


def _frequencies(level: int, z: int) -> NDArray[np.int64]:
    """Return the integer frequencies of one table, int64 `[SYMBOLS]`."""
    sigma, shift = 2.0 ** (level / LEVELS_PER_OCTAVE), level_shift(level)
    edges = [(h << (shift + 1)) + z - 1 for h in range(-SYMBOL_OFFSET, ESCAPE - SYMBOL_OFFSET + 1)]
    mass = np.diff([_below(edge, sigma) for edge in edges])
    frequency = np.zeros(SYMBOLS, np.int64)
    frequency[:ESCAPE] = np.rint(mass * _TOTAL)
    frequency[ESCAPE] = 1
    frequency[np.argmax(frequency)] += _TOTAL - frequency.sum()
    return frequency


@cache
def entropy_tables() -> EntropyTables:
    """Return all tables. They are built once, in about ten milliseconds."""
    levels = range(MIN_LEVEL, MAX_LEVEL + 1)
    frequency = np.array([[_frequencies(t, z) for z in (0, 1)] for t in levels])
    cumulative = np.cumsum(frequency, axis=-1) - frequency
    high = (np.arange(SYMBOLS) - SYMBOL_OFFSET) & 255
    own = (frequency << 20 | high << PROBABILITY_BITS) - cumulative
    slots = np.repeat(own.astype(np.uint32), frequency.ravel()).reshape(len(frequency), 2, _TOTAL)
    slots += np.arange(_TOTAL, dtype=np.uint32)
    shift = np.array([level_shift(t) for t in levels], np.int64)
    with np.errstate(divide="ignore"):
        bits = PROBABILITY_BITS - np.log2(frequency)
    escape = bits[..., ESCAPE:] + ESCAPE_BITS
    coded = bits + shift[:, None, None]
    coded[..., ESCAPE:] = np.inf
    return EntropyTables(
        frequency.astype(np.uint16),
        cumulative.astype(np.uint16),
        slots,
        shift,
        np.minimum(coded, escape).astype(np.float32),
    )
