"""Hold the integers of a trellis in panels (trellis_layout.py), each tile in its own width.

Lanes of panels follow each other along the trellis, so a panel's columns are not those of 16
outputs in a row: `lanes` tells which they are. A trellis begins anew in each block of columns,
and a block begins with a panel of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arrays import Float32, Floating, Int64, Integers, PanelValues
from rbe_cli.weights import panel_layout, trellis_layout
from rbe_cli.weights.matrix_record import OVERFLOW_TILE, TRELLIS
from rbe_cli.weights.panel_layout import EVEN, LAYOUTS, PANEL_COLUMNS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.panel_matrix import Kept, PanelMatrix
from rbe_cli.weights.trellis_code import STATES, TrellisBlock, taps
from rbe_cli.weights.trellis_layout import WIDTHS

_WIDEST = WIDTHS[-1]
_OVERFLOW_UNIT = 256
_COARSE_WIDTH = 3.5  # bits


@dataclass(frozen=True, eq=False)
class OverflowTiles:
    """Hold n >> 8 of the tiles that have an integer past 8 bits.

    Attributes:
        tiles: int64, ascending, which of the matrix's tiles they belong to, panel by panel.
        bits: uint8, each one's, 1 to 8: its codes are (n >> 8) + 2 ** (bits - 1).
        values: uint8, flat, the codes in planes (panel_layout.py), one tile after the other.
    """

    tiles: Int64
    bits: NDArray[np.uint8]
    values: PanelValues

    def copied(self) -> "OverflowTiles":
        """Return the same tiles in memory of their own."""
        return OverflowTiles(self.tiles, self.bits, self.values.copy())

    @property
    def starts(self) -> Int64:
        """Return where each tile's bytes begin, and the end, `[n + 1]`."""
        return VECTOR_BYTES * np.concatenate([[0], np.cumsum(self.bits, dtype=np.int64)])

    def levels(self, numbers: Int64) -> Float32:
        """Return (n >> 8) + 1/2 of some of the tiles, `[len(numbers), 32, 16]`."""
        found = np.empty((len(numbers), TILE_ROWS, PANEL_COLUMNS), np.float32)
        vectors = self.values.reshape(-1, VECTOR_BYTES)
        starts, bits = self.starts[numbers] // VECTOR_BYTES, self.bits[numbers]
        for count in np.unique(bits):
            own = np.flatnonzero(bits == count)
            stored = vectors[starts[own, None] + np.arange(count)]
            found[own] = EVEN[count - 1].levels[panel_layout.unpack_tiles(stored)]
        return found


@dataclass(frozen=True, eq=False)
class TrellisPanels(PanelMatrix):
    """Hold the integers that `ectcq` files hold, without loss.

    Attributes:
        values: uint8, flat: for each panel the planes of its tiles, then their vectors.
        widths: uint8 `[panels, tiles]`, 1 to 7.
        overflow: what is left of integers past 8 bits.
        lanes: int32 `[panels, 16]`, the column of each lane; -1 for padding.
        follows: uint8 `[panels]`, 0 where a trellis begins.
        states: of the trellis.
        row_steps, column_steps, shape: see `PanelMatrix`.
    """

    values: PanelValues
    widths: NDArray[np.uint8]
    overflow: OverflowTiles
    lanes: NDArray[np.int32]
    follows: NDArray[np.uint8]
    states: int
    row_steps: Floating
    column_steps: Floating
    shape: tuple[int, int]
    writes_padding: ClassVar[bool] = False

    @classmethod
    def from_blocks(
        cls, shape: tuple[int, int], blocks: Iterable[TrellisBlock], states: int
    ) -> "TrellisPanels":
        """Pack the blocks of a matrix, in the order of their columns.

        Raises:
            ValueError: integers are not a path of the trellis.
        """
        column_steps = np.empty(shape[1], np.float32)
        packed, done = [], 0
        for columns, order, integers, steps in blocks:
            column_steps[columns][order] = steps
            lanes = np.full(-(-order.size // PANEL_COLUMNS) * PANEL_COLUMNS, -1, np.int32)
            lanes[: order.size] = columns.start + order
            packed.append(_pack_block(integers, lanes.reshape(-1, PANEL_COLUMNS), states, done))
            done += packed[-1].widths.size
        values, widths, lanes_, follows, tiles, bits, overflow = (
            np.concatenate(parts)
            for parts in zip(*(block.arrays() for block in packed), strict=True)
        )
        ones = np.ones(shape[0], np.float32)
        overflow_tiles = OverflowTiles(tiles, bits, overflow)
        return cls(
            values, widths, overflow_tiles, lanes_, follows, states, ones, column_steps, shape
        )

    def copied(self) -> "TrellisPanels":
        """Return the same matrix in memory of its own, where this one is a view of more."""
        return replace(self, values=self.values.copy(), overflow=self.overflow.copied())

    def with_steps(self, row_steps: Floating, column_steps: Floating) -> "TrellisPanels":
        """Return the same integers times other steps; the tiles are shared."""
        return replace(self, row_steps=row_steps, column_steps=column_steps)

    @property
    def unit(self) -> float:
        """Return 1: the levels are integers."""
        return 1.0

    @property
    def is_coarse(self) -> bool:
        """Return whether tiles are narrow (docs/design-notes.md, "Activations")."""
        return bool(self.widths.mean() <= _COARSE_WIDTH)

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""
        arrays = (
            self.values, self.widths, self.overflow.tiles, self.overflow.bits,
            self.overflow.values, self.lanes, self.follows, self.row_steps, self.column_steps,
        )  # fmt: skip
        return sum(array.nbytes for array in arrays)

    @cached_property
    def starts(self) -> Int64:
        """Return where each panel's bytes begin, and the end, `[panels + 1]`."""
        sizes = VECTOR_BYTES * self.widths.sum(axis=1, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(sizes)])

    @cached_property
    def places(self) -> Int64:
        """Return the place of each column among all lanes, `[N]`."""
        places = np.empty(self.shape[1], np.int64)
        is_column = self.lanes.reshape(-1) >= 0
        places[self.lanes.reshape(-1)[is_column]] = np.flatnonzero(is_column)
        return places

    def in_panels(self, vector: Floating) -> Float32:
        """Return a vector `[N]` in the order of the lanes, with zeros in the padding."""
        found = np.zeros(self.lanes.size, np.float32)
        found[self.places] = vector
        return found

    def levels(self, indices: Int64) -> Float32:
        """Return the integers of some columns, `[len(indices), K]`."""
        places = self.places[indices]
        wanted, own = np.unique(places // PANEL_COLUMNS, return_inverse=True)
        found = self._panels(wanted)  # [wanted, K', 16]
        return found[own, : self.shape[0], places % PANEL_COLUMNS]

    def _panels(self, wanted: Int64) -> Float32:
        """Return the integers of some panels, `[len(wanted), K', 16]`."""
        vectors = self.values.reshape(-1, VECTOR_BYTES)
        widths = self.widths[wanted].astype(np.int64)  # [wanted, tiles]
        first = self.starts[wanted, None] // VECTOR_BYTES + self.tiles
        starts = (first + trellis_layout.vector_places(widths)).reshape(-1)
        lowest = self._lowest(wanted)
        widths = widths.reshape(-1)
        found = np.empty((widths.size, TILE_ROWS, PANEL_COLUMNS), np.float32)
        for width in np.unique(widths):
            own = np.flatnonzero(widths == width)
            stored = vectors[starts[own, None] + np.arange(width - 1)]
            codes = trellis_layout.unpack_codes(stored, width) | lowest[own]
            found[own] = codes.astype(np.float32) - trellis_layout.code_offset(width)
        tiles = (wanted[:, None] * self.tiles + np.arange(self.tiles)).reshape(-1)
        has_overflow = np.flatnonzero(np.isin(tiles, self.overflow.tiles))
        numbers = np.searchsorted(self.overflow.tiles, tiles[has_overflow])
        found[has_overflow] += _OVERFLOW_UNIT * self.overflow.levels(numbers)
        return found.reshape(len(wanted), -1, PANEL_COLUMNS)

    def _lowest(self, wanted: Int64) -> NDArray[np.uint8]:
        """Return the lowest two bits of the codes of some panels, `[wanted * tiles, 32, 16]`."""
        vectors = self.values.reshape(-1, VECTOR_BYTES)
        own = self.starts[wanted, None] // VECTOR_BYTES + np.arange(self.tiles)
        panel_before = np.maximum(wanted - 1, 0)
        before = self.starts[panel_before, None] // VECTOR_BYTES + np.arange(self.tiles)
        planes = vectors[own].reshape(-1, VECTOR_BYTES)
        earlier = vectors[before] * self.follows[wanted][:, None, None]
        of_q, of_z = trellis_layout.lowest_bits(
            planes, earlier.reshape(-1, VECTOR_BYTES), taps(self.states)
        )
        bits = 2 * trellis_layout.unpack_plane(of_q) + trellis_layout.unpack_plane(of_z)
        is_inverted = self.widths[wanted].reshape(-1, 1, 1) == 1
        return bits ^ (2 * is_inverted).astype(np.uint8)

    def _fill(self, record: NDArray[np.void]) -> Kept:
        overflow = np.zeros(len(self.overflow.tiles), OVERFLOW_TILE)
        overflow["tile"] = self.overflow.tiles % self.tiles
        overflow["layout"] = LAYOUTS.index(EVEN[0]) + self.overflow.bits.astype(np.int64) - 1
        overflow["values"] = address(self.overflow.values) + self.overflow.starts[:-1]
        panel_starts = np.arange(len(self.widths) + 1) * self.tiles
        overflow_starts = np.searchsorted(self.overflow.tiles, panel_starts)
        zeros = np.zeros(self.tiles * VECTOR_BYTES, np.uint8)
        # A kernel writes all lanes, the first one last: it stands in for those of the padding.
        codes = trellis_layout.tile_codes(self.widths)
        lanes = np.where(self.lanes < 0, self.lanes[:, :1], self.lanes)
        record["form"], record["layout"] = TRELLIS, STATES.index(self.states)
        record["values"], record["starts"] = address(self.values), address(self.starts)
        record["tile_codes"], record["follows"] = address(codes), address(self.follows)
        record["lanes"], record["places"] = address(lanes), address(self.places)
        record["no_planes"] = address(zeros)
        record["overflow_tiles"] = address(overflow)
        record["overflow_starts"] = address(overflow_starts)
        return overflow, overflow_starts, zeros, codes, lanes


@dataclass(frozen=True, eq=False)
class _PackedBlock:
    """Hold the arrays of `TrellisPanels` for one block."""

    values: PanelValues
    widths: NDArray[np.uint8]
    lanes: NDArray[np.int32]
    overflow: OverflowTiles

    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """Return all of them, to be joined with those of other blocks."""
        follows = np.ones(len(self.widths), np.uint8)
        follows[0] = 0
        own = self.overflow
        return self.values, self.widths, self.lanes, follows, own.tiles, own.bits, own.values


def _pack_block(
    integers: Integers, lanes: NDArray[np.int32], states: int, done: int
) -> _PackedBlock:
    """Pack a block's integers `[K, B]`; `done` tiles of the matrix lie before it."""
    bits = trellis_layout.shift_bits(integers, taps(states))
    planes = trellis_layout.pack_plane(_tiles(bits).astype(np.uint8))
    tiles = _tiles(integers.astype(np.int16))  # [panels * tiles, 32, 16]
    needed = np.maximum(trellis_layout.widths_of(tiles), 1)
    wide = np.flatnonzero(needed > _WIDEST)
    widths = np.minimum(needed, _WIDEST)
    codes = (tiles + trellis_layout.code_offset(widths)[:, None, None]).astype(np.uint8)
    codes[wide] = tiles[wide] & 255
    by_panel = widths.reshape(len(lanes), -1)
    count = by_panel.shape[1]
    starts = np.cumsum(by_panel.sum(axis=1)) - by_panel.sum(axis=1)  # vectors before each panel
    vectors = np.empty((int(widths.sum()), VECTOR_BYTES), np.uint8)
    vectors[(starts[:, None] + np.arange(count)).reshape(-1)] = planes
    places = (starts[:, None] + count + trellis_layout.vector_places(by_panel)).reshape(-1)
    for width in np.unique(widths):
        own = np.flatnonzero(widths == width)
        stored = trellis_layout.pack_codes(codes[own], width)
        vectors[places[own, None] + np.arange(width - 1)] = stored
    overflow = _pack_overflow(tiles[wide] >> 8, wide + done)
    return _PackedBlock(vectors.reshape(-1), by_panel.astype(np.uint8), lanes, overflow)


def _pack_overflow(tops: NDArray[np.int16], tiles: Int64) -> OverflowTiles:
    """Pack n >> 8 `[n, 32, 16]` of tiles with those numbers."""
    bits = trellis_layout.widths_of(tops) + 1
    starts = np.cumsum(bits) - bits
    vectors = np.empty((int(bits.sum()), VECTOR_BYTES), np.uint8)
    for count in np.unique(bits):
        own = np.flatnonzero(bits == count)
        codes = (tops[own] + 2 ** (count - 1)).astype(np.uint8)
        vectors[starts[own, None] + np.arange(count)] = panel_layout.pack_tiles(codes, count)
    return OverflowTiles(tiles, bits.astype(np.uint8), vectors.reshape(-1))


def _tiles(matrix: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return `[K, B]` as tiles `[panels * tiles, 32, 16]`."""
    return panel_layout.cut(matrix).reshape(-1, TILE_ROWS, PANEL_COLUMNS)
