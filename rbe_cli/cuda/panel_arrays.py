"""Copy a matrix in panels to the GPU as it is, with what kernels need to find their way in it."""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from rbe_cli.cuda.tile_form import TileForm
from rbe_cli.cuda.trellis_tiles import TRELLIS_FORM
from rbe_cli.cuda.uniform_tiles import UNIFORM_FORMS
from rbe_cli.errors import UsageError
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, VECTOR_BYTES
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.trellis_code import taps
from rbe_cli.weights.trellis_layout import GROUP_TILES, tile_order, vector_places
from rbe_cli.weights.trellis_panels import TrellisPanels
from rbe_cli.weights.uniform_panels import UniformPanels


class PanelArrays(NamedTuple):
    """Hold the arrays of a matrix on the GPU.

    Attributes:
        values: uint32, flat, the bytes of the panels.
        entries, starts, taps: int32, how a trellis's tiles lie in them (trellis_tiles.py).
        lanes: int32 `[panels * 16]`, the column of each lane, or -1.
        places: int32 `[N]`, the lane of each column.
    """

    values: Any
    entries: Any
    starts: Any
    taps: Any
    lanes: Any
    places: Any

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(int(array.nbytes) for array in self)


class OverflowArrays(NamedTuple):
    """Hold the tiles of integers past 8 bits on the GPU (overflow_products.py).

    Attributes:
        values: uint32, flat, the bytes of the tiles.
        rows: int32 `[n, 3]`, each one's tile of its panel, bits, and first vector.
        firsts: int32 `[panels + 1]`, each panel's first row.
    """

    values: Any
    rows: Any
    firsts: Any

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(int(array.nbytes) for array in self)


def form_of(matrix: PanelMatrix) -> TileForm:
    """Return the form of a matrix's tiles.

    Raises:
        UsageError: kernels do not know its layout.
    """
    if isinstance(matrix, TrellisPanels):
        return TRELLIS_FORM
    if isinstance(matrix, UniformPanels) and matrix.layout.name in UNIFORM_FORMS:
        return UNIFORM_FORMS[matrix.layout.name]
    raise UsageError(f"`backend` cuda does not know panels of the kind {_kind(matrix)}")


def _kind(matrix: PanelMatrix) -> str:
    return matrix.layout.name if isinstance(matrix, UniformPanels) else type(matrix).__name__


def panel_arrays(matrix: PanelMatrix) -> PanelArrays:
    """Copy a matrix whose form `form_of` knows."""
    if isinstance(matrix, TrellisPanels):
        return _of_trellis(matrix)
    nothing = np.zeros(1, np.int32)
    panels = -(-matrix.shape[1] // PANEL_COLUMNS)
    lanes = np.arange(panels * PANEL_COLUMNS)
    lanes[matrix.shape[1] :] = -1
    places = np.arange(matrix.shape[1])
    values = vars(matrix)["values"]
    return _copied(values, nothing, np.zeros((1, 2)), nothing, lanes, places)


def _of_trellis(matrix: TrellisPanels) -> PanelArrays:
    order = tile_order(matrix.widths)
    widths = matrix.widths.astype(np.int64)
    places = matrix.tiles + vector_places(matrix.widths)
    entries = np.take_along_axis(widths + 64 * places, order, axis=1) + 8 * (order % GROUP_TILES)
    own = matrix.starts[:-1] // VECTOR_BYTES
    before = np.where(matrix.follows > 0, np.concatenate([[-1], own[:-1]]), -1)
    code = taps(matrix.states)
    numbers = [*code.parity, *code.offset, 0][:4]
    return _copied(
        matrix.values, entries.reshape(-1), np.stack([own, before], axis=1), np.array(numbers),
        matrix.lanes.reshape(-1), matrix.places,
    )  # fmt: skip


def _copied(values: Any, *numbers: Any) -> PanelArrays:
    """Copy bytes, and integers as int32.

    Raises:
        UsageError: an integer is too large.
    """
    if any(own.max() >= 2**31 for own in numbers):
        raise UsageError("`backend` cuda does not take a matrix of this size")
    entries, starts, own_taps, lanes, places = (
        cuda.to_device(np.ascontiguousarray(own, np.int32)) for own in numbers
    )
    words = np.ascontiguousarray(values).view(np.uint32)
    return PanelArrays(cuda.to_device(words), entries, starts, own_taps, lanes, places)


def overflow_arrays(matrix: PanelMatrix) -> OverflowArrays | None:
    """Copy the tiles of integers past 8 bits; return None where there are none."""
    if not isinstance(matrix, TrellisPanels) or not matrix.overflow.tiles.size:
        return None
    own = matrix.overflow
    panels = np.arange(len(matrix.widths) + 1)
    firsts = np.searchsorted(own.tiles, panels * matrix.tiles)
    rows = np.stack([own.tiles % matrix.tiles, own.bits, own.starts[:-1] // VECTOR_BYTES], axis=1)
    return OverflowArrays(
        cuda.to_device(np.ascontiguousarray(own.values).view(np.uint32)),
        cuda.to_device(np.ascontiguousarray(rows, np.int32)),
        cuda.to_device(firsts.astype(np.int32)),
    )
