"""The resident form of a matrix: panels of codes, and steps (codec/panels.py).

weight[k, n] = row_steps[k] * level[k, n] * column_steps[n], K inputs by N outputs. The steps of
rows fold into a kernel's input, those of columns into its output.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec import panels
from rbe_cli.codec.panels import INTEGERS, LAYOUTS, PANEL_COLUMNS, TILE_ROWS, Layout
from rbe_cli.kernels.arrays import Float32, Int64, Integers, PanelValues
from rbe_cli.kernels.records import MATRIX, address


@dataclass(frozen=True, eq=False)
class PanelMatrix:
    """A matrix in panels.

    Attributes:
        values: the panels.
        layout: of the codes in them.
        row_steps: float32 `[K]`.
        column_steps: float32 `[N]`.
        shape: (K, N).
    """

    values: PanelValues
    layout: Layout
    row_steps: Float32
    column_steps: Float32
    shape: tuple[int, int]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Without the addresses of `record`, which another process could not use."""
        return PanelMatrix, (
            self.values, self.layout, self.row_steps, self.column_steps, self.shape
        )  # fmt: skip

    @classmethod
    def from_blocks(
        cls,
        shape: tuple[int, int],
        blocks: Iterable[tuple[slice, Integers, Float32]],
    ) -> "PanelMatrix":
        """Pack integers that arrive block by block, in the fewest of 3, 4, 5, 6 and 8 bits.

        Args:
            shape: (K, N).
            blocks: columns start:stop, their integers `[K, stop - start]` and their steps
                `[stop - start]`. No full-size intermediate is made, unless a later block needs
                more bits than those before: then the narrower array lives on while it is copied.

        Raises:
            OverflowError: an integer is outside -128 to 127.
        """
        layout = INTEGERS[0]
        values = panels.zeros(shape, layout.bits)
        column_steps = np.empty(shape[1], np.float32)
        for columns, block, steps in blocks:
            column_steps[columns] = steps
            needed = _layout_of(block)
            if needed.bits > layout.bits:
                if columns.start:
                    values = _widen(values, columns.start, shape, layout, needed)
                else:
                    values = panels.zeros(shape, needed.bits)
                layout = needed
            panels.store(values, columns.start, (block + layout.offset).astype(np.uint8))
        return cls(values, layout, np.ones(shape[0], np.float32), column_steps, shape)

    @cached_property
    def record(self) -> NDArray[np.void]:
        """The matrix as compiled kernels know it, without a bias, `[1]` of `records.MATRIX`.

        Valid as long as this object lives.
        """
        panel_count, tiles, bits, _ = self.values.shape
        self._row_steps[: self.shape[0]] = self.row_steps
        self._column_steps[: self.shape[1]] = self.layout.unit * self.column_steps
        found = np.zeros(1, MATRIX)
        found["layout"], found["bits"] = LAYOUTS.index(self.layout), bits
        found["offset"], found["values"] = self.layout.offset, address(self.values)
        found["rows"], found["tiles"], found["panels"] = self.shape[0], tiles, panel_count
        found["row_steps"] = address(self._row_steps)
        found["column_steps"] = address(self._column_steps)
        return found

    @cached_property
    def _row_steps(self) -> Float32:
        """With zeros to K'."""
        return np.zeros(self.values.shape[1] * TILE_ROWS, np.float32)

    @cached_property
    def _column_steps(self) -> Float32:
        """To N'."""
        return np.zeros(self.values.shape[0] * PANEL_COLUMNS, np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes + self.row_steps.nbytes + self.column_steps.nbytes

    def columns(self, indices: Int64) -> Float32:
        """Weights of some columns, `[len(indices), K]`."""
        codes = panels.unpack_columns(self.values, indices)[: self.shape[0]].T  # [n, K]
        found = self.layout.levels[codes] * self.row_steps
        return np.ascontiguousarray(found * self.column_steps[indices, None])

    def dense(self) -> Float32:
        """All weights, `[K, N]`."""
        return self.unscaled() * self.row_steps[:, None] * self.column_steps

    def unscaled(self) -> Float32:
        """All levels, `[K, N]`."""
        return self.layout.levels[panels.unpack(self.values, self.shape)]


def _layout_of(block: Integers) -> Layout:
    """The narrowest that holds every integer of a block."""
    low, high = int(block.min(initial=0)), int(block.max(initial=0))
    for layout in INTEGERS:
        if -layout.offset <= low and high < layout.offset:
            return layout
    raise OverflowError(f"integers from {low} to {high} do not fit a panel's 8 bits")


def _widen(
    values: PanelValues, filled: int, shape: tuple[int, int], layout: Layout, needed: Layout
) -> PanelValues:
    """The same integers in more bits, of the first `filled` columns."""
    codes = panels.unpack(values, (shape[0], filled))
    wider = panels.zeros(shape, needed.bits)
    panels.store(wider, 0, codes + np.uint8(needed.offset - layout.offset))
    return wider
