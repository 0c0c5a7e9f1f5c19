"""The resident form of a matrix: integers in panels of 64 columns.

weight[k, n] = column_steps[n] * integer[k, n], K inputs by N outputs. A panel holds 64 columns
of all K rows, so that a kernel walks down it with the sums of 64 outputs in registers and
reads memory in one stream. K is padded to a multiple of 8 and N to one of 64, with zeros.
Integers are stored in the narrowest form that holds the whole matrix:

    int16   [panels, K', 64]
    int8    [panels, K', 64]
    uint8   [panels, K' / 2, 64]   4-bit two's complement: row 2r in the low half of a byte,
                                   row 2r + 1 in the high half
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rbe_cli.kernels.arrays import Float32, Int64, Integers, PanelValues

PANEL_COLUMNS = 64
ROW_MULTIPLE = 8
# Narrowest first, with the largest integer of each; its negative minus one fits too.
_LARGEST: dict[np.dtype[Any], int] = {
    np.dtype(np.uint8): 7,
    np.dtype(np.int8): 127,
    np.dtype(np.int16): 32767,
}


def padded_rows(rows: int) -> int:
    """K': `rows` rounded up to a multiple of 8."""
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def panel_shape(shape: tuple[int, int], form: DTypeLike) -> tuple[int, int, int]:
    """Shape of the stored array of a `[K, N]` matrix."""
    rows, columns = shape
    stored_rows = padded_rows(rows) // (2 if np.dtype(form) == np.uint8 else 1)
    return -(-columns // PANEL_COLUMNS), stored_rows, PANEL_COLUMNS


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """A matrix in panels.

    Attributes:
        values: the integers, as above.
        column_steps: float32 `[N]`.
        shape: (K, N).
    """

    values: PanelValues
    column_steps: Float32
    shape: tuple[int, int]

    @classmethod
    def from_blocks(
        cls,
        shape: tuple[int, int],
        blocks: Iterable[tuple[slice, Integers, Float32]],
    ) -> "PanelMatrix":
        """Pack integers that arrive block by block.

        Args:
            shape: (K, N).
            blocks: columns start:stop, their integers `[K, stop - start]`, within int16, and
                their steps `[stop - start]`. No full-size intermediate is made, unless a
                later block needs a wider form than those before: then the narrower array
                lives on while it is copied.
        """
        values: PanelValues = np.zeros(panel_shape(shape, np.uint8), np.uint8)
        column_steps = np.empty(shape[1], np.float32)
        for columns, block, steps in blocks:
            column_steps[columns] = steps
            form = _narrowest_form(block)
            if _LARGEST[form] > _LARGEST[values.dtype]:
                values = _widen(values, form)
            _store(values, columns.start, block)
        return cls(values, column_steps, shape)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes + self.column_steps.nbytes

    def columns(self, indices: Int64) -> Float32:
        """Weights of some columns, `[len(indices), K]`."""
        # [n, K'], or [n, K' / 2] where packed
        stored = self.values[indices // PANEL_COLUMNS, :, indices % PANEL_COLUMNS]
        integers = unpack_rows(stored.T)[: self.shape[0]].T  # [n, K]
        return np.ascontiguousarray(integers * self.column_steps[indices, None])

    def dense(self) -> Float32:
        """All weights, `[K, N]`."""
        return self.integers() * self.column_steps

    def integers(self) -> Integers:
        """All integers, `[K, N]` int8 or int16."""
        return integers(self.values, self.shape)


def integers(values: PanelValues, shape: tuple[int, int]) -> Integers:
    """The integers `[K, N]` of a stored array."""
    panels = unpack_rows(np.moveaxis(values, 1, 0))  # [K', panels, 64]
    return panels.reshape(len(panels), -1)[: shape[0], : shape[1]]


def pack_rows(integers: NDArray[Any]) -> NDArray[np.uint8]:
    """Two rows a byte: `[2 r, ...]` from -8 to 7 -> uint8 `[r, ...]`."""
    nibbles = (integers & 15).astype(np.uint8)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))


def unpack_rows(stored: NDArray[Any]) -> Integers:
    """Inverse of `pack_rows` on uint8; other forms are returned as they are."""
    if stored.dtype != np.uint8:
        return stored
    integers = np.empty((2 * len(stored), *stored.shape[1:]), np.int8)
    integers[0::2] = (stored << 4).view(np.int8) >> 4
    integers[1::2] = stored.view(np.int8) >> 4
    return integers


def _narrowest_form(block: Integers) -> np.dtype[Any]:
    """The first form that holds every integer of a block."""
    low, high = int(block.min(initial=0)), int(block.max(initial=0))
    for form, largest in _LARGEST.items():
        if -largest - 1 <= low and high <= largest:
            return form
    raise OverflowError(f"integers from {low} to {high} do not fit a panel's int16")


def _widen(values: PanelValues, form: np.dtype[Any]) -> PanelValues:
    """The same integers in a wider form."""
    rows = unpack_rows(np.moveaxis(values, 1, 0))  # [K', panels, 64]
    return np.ascontiguousarray(np.moveaxis(rows, 0, 1), dtype=form)


def _store(values: PanelValues, start: int, block: Integers) -> None:
    """Write a block's columns, which begin at column `start` of the matrix."""
    rows, width = block.shape
    stored: NDArray[Any] = block
    if values.dtype == np.uint8:
        padded = np.zeros((padded_rows(rows), width), np.int8)
        padded[:rows] = block
        stored = pack_rows(padded)
    for panel in range(start // PANEL_COLUMNS, -(-(start + width) // PANEL_COLUMNS)):
        first = max(start, panel * PANEL_COLUMNS)
        last = min(start + width, (panel + 1) * PANEL_COLUMNS)
        lane = first - panel * PANEL_COLUMNS
        part = stored[:, first - start : last - start]
        values[panel, : len(part), lane : lane + last - first] = part
