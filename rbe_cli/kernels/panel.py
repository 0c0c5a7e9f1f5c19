"""The resident form of a matrix: panels of integers or levels, and steps (codec/panels.py).

weight[k, n] = row_steps[k] * value[k, n] * column_steps[n], K inputs by N outputs. The steps of
rows fold into a kernel's input, those of columns into its output.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rbe_cli.codec import panels
from rbe_cli.codec.panels import INTEGERS_4, NO_LEVELS, PANEL_COLUMNS
from rbe_cli.kernels.arrays import Float32, Int64, Integers, PanelValues


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """A matrix in panels.

    Attributes:
        values: integers or codes, read-only.
        levels: float32 `[2 ** bits]`, what codes stand for; `NO_LEVELS` for integers.
        row_steps: float32 `[K]`.
        column_steps: float32 `[N]`.
        shape: (K, N).
    """

    values: PanelValues
    levels: Float32
    row_steps: Float32
    column_steps: Float32
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        # Arrays that can be written to are of another type to Numba, which would compile twice.
        self.values.flags.writeable = False

    @classmethod
    def from_blocks(
        cls,
        shape: tuple[int, int],
        blocks: Iterable[tuple[slice, Integers, Float32]],
    ) -> "PanelMatrix":
        """Pack integers that arrive block by block, in the fewest of 4, 8 and 16 bits.

        Args:
            shape: (K, N).
            blocks: columns start:stop, their integers `[K, stop - start]`, within int16, and
                their steps `[stop - start]`. No full-size intermediate is made, unless a
                later block needs more bits than those before: then the narrower array lives
                on while it is copied.
        """
        bits = 4
        values = panels.zeros(shape, bits)
        column_steps = np.empty(shape[1], np.float32)
        for columns, block, steps in blocks:
            column_steps[columns] = steps
            needed = _bits_needed(block)
            if needed > bits:
                values = _widen(values, bits, needed, shape)
                bits = needed
            panels.store(values, bits, columns.start, block + 8 if bits == 4 else block)
        levels = INTEGERS_4 if bits == 4 else NO_LEVELS
        return cls(values, levels, np.ones(shape[0], np.float32), column_steps, shape)

    @property
    def bits(self) -> int:
        """Of a stored value: 2, 4, 8 or 16."""
        return panels.bits_of(self.values, self.levels)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes + self.row_steps.nbytes + self.column_steps.nbytes

    def columns(self, indices: Int64) -> Float32:
        """Weights of some columns, `[len(indices), K]`."""
        # [n, K'], or fewer where rows share a byte
        stored = self.values[indices // PANEL_COLUMNS, :, indices % PANEL_COLUMNS]
        found = panels.unpack_rows(stored.T, self.bits)[: self.shape[0]].T  # [n, K]
        if self.levels.size:
            found = self.levels[found]
        return np.ascontiguousarray(found * self.row_steps * self.column_steps[indices, None])

    def dense(self) -> Float32:
        """All weights, `[K, N]`."""
        return self.unscaled() * self.row_steps[:, None] * self.column_steps

    def unscaled(self) -> PanelValues:
        """All integers or levels, `[K, N]`."""
        return panels.unscaled(self.values, self.levels, self.shape)


def _bits_needed(block: Integers) -> int:
    """The fewest bits that hold every integer of a block."""
    low, high = int(block.min(initial=0)), int(block.max(initial=0))
    for bits in (4, 8, 16):
        if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1):
            return bits
    raise OverflowError(f"integers from {low} to {high} do not fit a panel's int16")


def _widen(values: PanelValues, bits: int, needed: int, shape: tuple[int, int]) -> PanelValues:
    """The same integers in more bits."""
    found = panels.unpack(values, bits, shape)
    wider = panels.zeros(shape, needed)
    panels.store(wider, needed, 0, found.view(np.int8) - 8 if bits == 4 else found)
    return wider
