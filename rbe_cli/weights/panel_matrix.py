"""Define what matrices in panels have in common: levels, and steps of rows and columns.

weight[k, n] = row_steps[k] * level[k, n] * column_steps[n], K inputs by N outputs. The steps of
rows fold into a kernel's input, those of columns into its output. Levels lie in panels of 16
columns and all rows: `uniform_panels` holds those of one layout, `trellis_panels` integers of a
trellis.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arrays import Float32, Floating, Int64
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.matrix_record import MATRIX
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS

Kept = tuple[NDArray[np.generic], ...]


class PanelMatrix(CompressedMatrix):
    """Hold a matrix that kernels multiply by as it is.

    Attributes:
        row_steps: float32 `[K]`; float64, too, for the reference kernels.
        column_steps: the same types, `[N]`.
        shape: (K, N).
        writes_padding: whether kernels write whole panels, where N is no multiple of 16.
    """

    row_steps: Floating
    column_steps: Floating
    is_packed: ClassVar[bool] = True
    writes_padding: ClassVar[bool]

    @abstractmethod
    def with_steps(self, row_steps: Floating, column_steps: Floating) -> Self:
        """Return the same levels times other steps; the tiles are shared."""

    @abstractmethod
    def levels(self, indices: Int64) -> Float32:
        """Return the levels of some columns, `[len(indices), K]`."""

    @abstractmethod
    def in_panels(self, vector: Floating) -> Float32:
        """Return a vector `[N]` in the order of the panels' lanes, with zeros in the padding."""

    @abstractmethod
    def _fill(self, record: NDArray[np.void]) -> Kept:
        """Fill the fields of a record that depend on the form; return the arrays behind them."""

    @property
    @abstractmethod
    def unit(self) -> float:
        """Return what kernels' sums of integers are multiplied by beside the steps."""

    @property
    @abstractmethod
    def is_coarse(self) -> bool:
        """Return whether its errors are five times those of activations of 8 bits, or more."""

    @property
    def tiles(self) -> int:
        """Return the number of tiles of a panel."""
        return -(-self.shape[0] // TILE_ROWS)

    def decoded(self) -> "PanelMatrix":
        """Return the matrix itself."""
        return self

    def parameters(self) -> dict[str, Floating]:
        """Return `.row_steps` `[K]` and `.column_steps` `[N]`."""
        return {".row_steps": self.row_steps, ".column_steps": self.column_steps}

    def with_parameters(self, values: Mapping[str, Floating]) -> "PanelMatrix":
        """Return the same tiles with other steps."""
        return self.with_steps(values[".row_steps"], values[".column_steps"])

    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of the steps, from that of the weights `[K, N]`."""
        product = grad * self.unscaled()  # [K, N]
        return {
            ".row_steps": product @ self.column_steps,
            ".column_steps": self.row_steps @ product,
        }

    def columns(self, indices: Int64) -> Floating:
        """Return the weights of some columns, `[len(indices), K]`."""
        levels = self.levels(indices)
        return np.ascontiguousarray(levels * self.row_steps * self.column_steps[indices, None])

    def dense(self) -> Floating:
        """Return all weights, `[K, N]`."""
        return self.unscaled() * self.row_steps[:, None] * self.column_steps

    def unscaled(self) -> Float32:
        """Return all levels, `[K, N]`."""
        return np.ascontiguousarray(self.levels(np.arange(self.shape[1])).T)

    @property
    def record(self) -> NDArray[np.void]:
        """Return the matrix as compiled kernels know it, without a bias, `[1]` of `MATRIX`.

        Valid as long as this object lives.
        """
        own = vars(self)
        if "_record" not in own:
            # At once, as two threads may come here: the first record stays, with its arrays.
            own.setdefault("_record", self._made_record())
        record: NDArray[np.void] = own["_record"][0]
        return record

    def _made_record(self) -> tuple[NDArray[np.void], Kept]:
        """Return a record, and what it points to beside the attributes."""
        row_steps = np.zeros(self.tiles * TILE_ROWS, np.float32)
        row_steps[: self.shape[0]] = self.row_steps
        column_steps = self.in_panels(np.float32(self.unit) * self.column_steps)
        found = np.zeros(1, MATRIX)
        found["rows"], found["tiles"] = self.shape[0], self.tiles
        found["panels"] = len(column_steps) // PANEL_COLUMNS
        found["row_steps"], found["column_steps"] = address(row_steps), address(column_steps)
        return found, (row_steps, column_steps, *self._fill(found))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the addresses of `record`, which another process could not use."""
        return {name: value for name, value in vars(self).items() if name != "_record"}
