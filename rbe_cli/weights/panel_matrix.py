"""The resident form of a matrix: panels of codes, and steps (codec/panel_layout.py).

weight[k, n] = row_steps[k] * level[k, n] * column_steps[n], K inputs by N outputs. The steps of
rows fold into a kernel's input, those of columns into its output.

Each tile of 32 rows by 16 columns has a layout of its own, the narrowest that holds it. Integers
past 8 bits are cut in two, v = low + 256 * overflow with low in 8 bits: the few tiles that have
such integers have an overflow tile as well.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.arrays import Float32, Floating, Int64, Integers, PanelValues
from rbe_cli.weights import panel_layout
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.matrix_record import MATRIX, OVERFLOW_TILE, PACKED
from rbe_cli.weights.panel_layout import (
    INTEGERS,
    LAYOUTS,
    PANEL_COLUMNS,
    TILE_ROWS,
    VECTOR_BYTES,
    PanelLayout,
)

_BITS = np.array([layout.bits for layout in LAYOUTS])
_FIRST_INTEGER = LAYOUTS.index(INTEGERS[0])
_LIMITS = np.array([layout.offset for layout in INTEGERS])  # -limit <= v < limit
_OFFSETS = np.array([layout.offset for layout in LAYOUTS], np.int16)
_OVERFLOW_UNIT = 256
_LARGEST = 127 * _OVERFLOW_UNIT + 127


@dataclass(frozen=True, eq=False)
class TileSet:
    """Hold tiles that lie one after the other, each in its own layout.

    Attributes:
        values: uint8, flat.
        layouts: uint8, each tile's place in `panel_layout.LAYOUTS`.
    """

    values: PanelValues
    layouts: NDArray[np.uint8]

    @property
    def starts(self) -> Int64:
        """Return where each tile's bytes begin, and the end, `[n + 1]`."""
        return VECTOR_BYTES * np.concatenate([[0], np.cumsum(_BITS[self.layouts])])

    def levels(self, tiles: Int64) -> Float32:
        """Return the levels of some tiles, `[len(tiles), 32, 16]`."""
        found = np.empty((len(tiles), TILE_ROWS, PANEL_COLUMNS), np.float32)
        vectors = self.values.reshape(-1, VECTOR_BYTES)
        starts, layouts = self.starts[tiles] // VECTOR_BYTES, self.layouts[tiles]
        for layout in np.unique(layouts):
            own = np.flatnonzero(layouts == layout)
            stored = vectors[starts[own, None] + np.arange(_BITS[layout])]
            found[own] = LAYOUTS[layout].levels[panel_layout.unpack_tiles(stored)]
        return found


class _Packer:
    """Pack tiles of integers one after the other.

    Memory is set aside for tiles of 8 bits.
    """

    def __init__(self, tiles: int) -> None:
        """Set memory aside for that many tiles."""
        self._vectors = np.empty((tiles * INTEGERS[-1].bits, VECTOR_BYTES), np.uint8)
        self._layouts: list[NDArray[np.uint8]] = []
        self._used = 0  # vectors

    def add(self, integers: Integers) -> None:
        """Add integers `[n, 32, 16]` of at most 8 bits, each tile in the fewest bits."""
        low, high = integers.min(axis=(1, 2)), integers.max(axis=(1, 2))
        widest = np.maximum(-low.astype(np.int64), high.astype(np.int64) + 1)
        layouts = (_FIRST_INTEGER + np.searchsorted(_LIMITS, widest)).astype(np.uint8)
        starts = self._used + np.concatenate([[0], np.cumsum(_BITS[layouts])])
        for layout in np.unique(layouts):
            own = np.flatnonzero(layouts == layout)
            bits = int(_BITS[layout])
            codes = (integers[own] + _OFFSETS[layout]).astype(np.uint8)
            self._vectors[starts[own, None] + np.arange(bits)] = panel_layout.pack_tiles(
                codes, bits
            )
        self._layouts.append(layouts)
        self._used = int(starts[-1])

    def tiles(self) -> TileSet:
        """Return all tiles that were added, and give the rest of the memory back."""
        self._vectors.resize((self._used, VECTOR_BYTES), refcheck=False)
        return TileSet(self._vectors.reshape(-1), np.concatenate(self._layouts))


@dataclass(frozen=True, eq=False)
class PanelMatrix(CompressedMatrix):
    """Hold a matrix in panels.

    Attributes:
        low: its tiles, panel by panel.
        overflow: the tiles that stand for multiples of 256.
        overflow_tiles: int64, ascending, which of the matrix's tiles those belong to.
        row_steps: float32 `[K]`; float64, too, for the reference kernels.
        column_steps: the same types, `[N]`.
        shape: (K, N).
    """

    low: TileSet
    overflow: TileSet
    overflow_tiles: Int64
    row_steps: Floating
    column_steps: Floating
    shape: tuple[int, int]
    is_packed: ClassVar[bool] = True

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Pickle without the addresses of `record`, which another process could not use."""
        steps = self.row_steps, self.column_steps
        return PanelMatrix, (self.low, self.overflow, self.overflow_tiles, *steps, self.shape)

    @classmethod
    def of_one_layout(
        cls,
        values: PanelValues,
        layout: PanelLayout,
        row_steps: Float32,
        column_steps: Float32,
        shape: tuple[int, int],
    ) -> "PanelMatrix":
        """Return a matrix that shares a stored array `[panels, tiles, bits, 64]`, and its steps."""
        count = values.shape[0] * values.shape[1]
        layouts = np.full(count, LAYOUTS.index(layout), np.uint8)
        nothing = np.zeros(0, np.uint8)
        low, overflow = TileSet(values.reshape(-1), layouts), TileSet(nothing, nothing)
        return cls(low, overflow, np.zeros(0, np.int64), row_steps, column_steps, shape)

    @classmethod
    def from_blocks(
        cls, shape: tuple[int, int], blocks: Iterable[tuple[slice, Integers, Float32]]
    ) -> "PanelMatrix":
        """Pack integers that arrive block by block; no full-size intermediate is made.

        Args:
            shape: (K, N).
            blocks: successive columns start:stop, their integers `[K, stop - start]`, within
                int16, and their steps `[stop - start]`.

        Raises:
            OverflowError: an integer is above 32639.
        """
        column_steps = np.empty(shape[1], np.float32)
        count = -(-shape[0] // TILE_ROWS) * -(-shape[1] // PANEL_COLUMNS)
        low, overflow, overflow_tiles, done = _Packer(count), _Packer(count), [], 0
        for tiles in _whole_panels(blocks, column_steps):
            if tiles.max() > _LARGEST:
                raise OverflowError(f"the integer {tiles.max()} does not fit two times 8 bits")
            top = (tiles + np.int16(128)) >> np.int16(8)
            wide = np.flatnonzero(top.any(axis=(1, 2)))
            low.add(tiles - (top << np.int16(8)))
            overflow.add(top[wide])
            overflow_tiles.append(wide + done)
            done += len(tiles)
        ones = np.ones(shape[0], np.float32)
        found = low.tiles(), overflow.tiles(), np.concatenate(overflow_tiles)
        return cls(*found, ones, column_steps, shape)

    def placed(self, arena: Arena) -> "PanelMatrix":
        """Return the same matrix with its tiles in an arena."""
        low = TileSet(arena.place(self.low.values), self.low.layouts)
        steps = self.row_steps, self.column_steps
        return PanelMatrix(low, self.overflow, self.overflow_tiles, *steps, self.shape)

    def with_steps(self, row_steps: Floating, column_steps: Floating) -> "PanelMatrix":
        """Return the same integers times other steps; the tiles are shared."""
        return PanelMatrix(
            self.low, self.overflow, self.overflow_tiles, row_steps, column_steps, self.shape
        )

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

    @property
    def layout(self) -> PanelLayout:
        """Return the layout of the widest tile."""
        return LAYOUTS[self.low.layouts.max()]

    @property
    def tiles(self) -> int:
        """Return the number of tiles of a panel."""
        return -(-self.shape[0] // TILE_ROWS)

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

    def _made_record(self) -> tuple[NDArray[np.void], tuple[NDArray[np.generic], ...]]:
        """Return a record, and what it points to beside the attributes."""
        count = len(self.low.layouts) // self.tiles
        row_steps = np.zeros(self.tiles * TILE_ROWS, np.float32)
        row_steps[: self.shape[0]] = self.row_steps
        column_steps = np.zeros(count * PANEL_COLUMNS, np.float32)
        column_steps[: self.shape[1]] = self.layout.unit * self.column_steps
        overflow = np.zeros(len(self.overflow_tiles), OVERFLOW_TILE)
        overflow["tile"] = self.overflow_tiles % self.tiles
        overflow["layout"] = self.overflow.layouts
        overflow["values"] = address(self.overflow.values) + self.overflow.starts[:-1]
        panel_starts = np.arange(count + 1) * self.tiles
        overflow_starts = np.searchsorted(self.overflow_tiles, panel_starts)
        starts = self.low.starts[panel_starts]
        found = np.zeros(1, MATRIX)
        found["form"], found["values"] = PACKED, address(self.low.values)
        found["starts"], found["layouts"] = address(starts), address(self.low.layouts)
        is_uniform = (self.low.layouts == self.low.layouts[0]).all() and not overflow.size
        found["layout"] = self.low.layouts[0] if is_uniform else -1
        found["rows"], found["tiles"], found["panels"] = self.shape[0], self.tiles, count
        found["row_steps"], found["column_steps"] = address(row_steps), address(column_steps)
        found["overflow_tiles"], found["overflow_starts"] = (
            address(overflow),
            address(overflow_starts),
        )
        return found, (starts, row_steps, column_steps, overflow, overflow_starts)

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""
        arrays = (
            self.low.values, self.low.layouts, self.overflow.values, self.overflow.layouts,
            self.overflow_tiles, self.row_steps, self.column_steps,
        )  # fmt: skip
        return sum(array.nbytes for array in arrays)

    def columns(self, indices: Int64) -> Floating:
        """Return the weights of some columns, `[len(indices), K]`."""
        wanted, places = np.unique(indices // PANEL_COLUMNS, return_inverse=True)
        found = self._levels(wanted)  # [wanted, K', 16]
        levels = found[places, : self.shape[0], indices % PANEL_COLUMNS]  # [n, K]
        return np.ascontiguousarray(levels * self.row_steps * self.column_steps[indices, None])

    def dense(self) -> Floating:
        """Return all weights, `[K, N]`."""
        return self.unscaled() * self.row_steps[:, None] * self.column_steps

    def unscaled(self) -> Float32:
        """Return all levels, `[K, N]`."""
        found = self._levels(np.arange(len(self.low.layouts) // self.tiles))
        return panel_layout.join(
            found.reshape(len(found), self.tiles, TILE_ROWS, PANEL_COLUMNS), self.shape
        )

    def _levels(self, wanted: Int64) -> Float32:
        """Return the levels of some panels, `[len(wanted), K', 16]`."""
        tiles = (wanted[:, None] * self.tiles + np.arange(self.tiles)).ravel()
        found = self.low.levels(tiles)
        has_overflow = np.flatnonzero(np.isin(tiles, self.overflow_tiles))
        own = np.searchsorted(self.overflow_tiles, tiles[has_overflow])
        found[has_overflow] += _OVERFLOW_UNIT * self.overflow.levels(own)
        return found.reshape(len(wanted), -1, PANEL_COLUMNS)


def _whole_panels(
    blocks: Iterable[tuple[slice, Integers, Float32]], column_steps: Float32
) -> Iterator[NDArray[np.int16]]:
    """Yield tiles `[n, 32, 16]` of whole panels, as far as blocks have come.

    It fills `column_steps`.
    """
    rest: Integers | None = None
    for columns, block, steps in blocks:
        column_steps[columns] = steps
        known = block if rest is None else np.concatenate([rest, block], axis=1)
        whole = known.shape[1] // PANEL_COLUMNS * PANEL_COLUMNS
        if columns.stop == len(column_steps):
            whole = known.shape[1]
        rest = known[:, whole:]
        if whole:
            tiles = panel_layout.cut(known[:, :whole].astype(np.int16))
            yield tiles.reshape(-1, TILE_ROWS, PANEL_COLUMNS)
