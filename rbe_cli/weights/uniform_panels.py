"""Hold a matrix in panels whose tiles all have one layout, as files of the codec `fixed` do."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arrays import Float32, Floating, Int64, PanelValues
from rbe_cli.weights import panel_layout
from rbe_cli.weights.matrix_record import UNIFORM
from rbe_cli.weights.panel_layout import (
    INT_8,
    LAYOUTS,
    PANEL_COLUMNS,
    VECTOR_BYTES,
    PanelLayout,
)
from rbe_cli.weights.panel_matrix import Kept, PanelMatrix


@dataclass(frozen=True, eq=False)
class UniformPanels(PanelMatrix):
    """Share a stored array.

    Attributes:
        values: uint8, flat, the array `[panels, tiles, bits, 64]` of panel_layout.py.
        layout: of all tiles.
        row_steps, column_steps, shape: see `PanelMatrix`.
    """

    values: PanelValues
    layout: PanelLayout
    row_steps: Floating
    column_steps: Floating
    shape: tuple[int, int]
    writes_padding: ClassVar[bool] = True

    @classmethod
    def rounded(cls, weights: Float32) -> "UniformPanels":
        """Return a matrix `[K, N]` rounded to 8 bits, each column by the largest of its weights."""
        rows, columns = weights.shape
        steps = np.abs(weights).max(axis=0) / np.float32(INT_8.levels[-1])
        codes = np.rint(weights / np.where(steps > 0, steps, 1)) - INT_8.levels[0]
        values = panel_layout.pack(codes.astype(np.uint8), INT_8.bits)
        return cls(values.reshape(-1), INT_8, np.ones(rows, np.float32), steps, (rows, columns))

    def with_steps(self, row_steps: Floating, column_steps: Floating) -> "UniformPanels":
        """Return the same levels times other steps; the tiles are shared."""
        return replace(self, row_steps=row_steps, column_steps=column_steps)

    @property
    def unit(self) -> float:
        """Return the layout's unit."""
        return self.layout.unit

    @property
    def is_coarse(self) -> bool:
        """Return whether levels have at most 4 bits (docs/design-notes.md, "Activations")."""
        return self.layout.bits <= 4

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""
        return self.values.nbytes + self.row_steps.nbytes + self.column_steps.nbytes

    def levels(self, indices: Int64) -> Float32:
        """Return the levels of some columns, `[len(indices), K]`."""
        wanted, places = np.unique(indices // PANEL_COLUMNS, return_inverse=True)
        stored = self.values.reshape(-1, self.tiles, self.layout.bits, VECTOR_BYTES)[wanted]
        codes = panel_layout.unpack_tiles(stored.reshape(-1, self.layout.bits, VECTOR_BYTES))
        found = self.layout.levels[codes.reshape(len(wanted), -1, PANEL_COLUMNS)]
        return found[places, : self.shape[0], indices % PANEL_COLUMNS]

    def in_panels(self, vector: Floating) -> Float32:
        """Return a vector `[N]` with zeros to a whole panel."""
        found = np.zeros(-(-len(vector) // PANEL_COLUMNS) * PANEL_COLUMNS, np.float32)
        found[: len(vector)] = vector
        return found

    def _fill(self, record: NDArray[np.void]) -> Kept:
        panel_bytes = self.tiles * self.layout.bits * VECTOR_BYTES
        starts = np.arange(record["panels"][0] + 1) * panel_bytes
        record["form"], record["layout"] = UNIFORM, LAYOUTS.index(self.layout)
        record["values"], record["starts"] = address(self.values), address(starts)
        return (starts,)
