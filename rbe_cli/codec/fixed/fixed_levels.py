"""Choose levels and steps of the codec `fixed` by tables."""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import log2
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, StepLevels

Float32 = NDArray[np.float32]
CELLS = np.float32(16)  # per unit: the middles between levels are multiples of 1/16
FLOAT32_MAX = float(np.finfo(np.float32).max)


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


def largest_step_level(bits: int, other_step: float) -> int:
    """Return the largest level of a step at which no weight overflows, at most 127.

    Args:
        bits: 2, 4 or 8.
        other_step: the largest step of the other side, by which the step is multiplied.
    """
    largest = float(np.abs(LAYOUTS[bits].levels).max()) * other_step
    return min(math.floor(8 * log2(FLOAT32_MAX / largest)), 127)


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
