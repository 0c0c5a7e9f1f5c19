"""Turn entropy-coded matrices into panels, block by block, by the threads of a team."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.ectcq.unpack_records import (
    DAMAGED,
    OVERFLOW_BYTES,
    PACKED_BYTES,
    UNPACK_JOB,
    UNPACK_UNIT,
)
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.entropy.entropy_model import entropy_tables
from rbe_cli.codec.entropy.rans import BlockReader
from rbe_cli.errors import PayloadError
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.arrays import Int64, PanelValues
from rbe_cli.runtime.libraries import UNPACK_BLOCKS
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.matrix_record import OVERFLOW_TILE
from rbe_cli.weights.panel_layout import EVEN, LAYOUTS, PANEL_COLUMNS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_layout import WIDTHS
from rbe_cli.weights.trellis_panels import OverflowTiles, TrellisPanels

_LINE = 64


class _Outputs(NamedTuple):
    """Hold what is known of a matrix, and what the program writes of it beside its values.

    Attributes:
        units: its records of `UNPACK_UNIT`.
        lanes: int32 `[panels, 16]`, as of `TrellisPanels`.
        follows: uint8 `[panels]`, the same.
        step_levels: int16 `[N]`, block after block, each along its trellis.
        widths: uint8 `[panels, tiles]`, written.
        starts, overflow_starts: int64 `[panels + 1]`, written.
    """

    units: NDArray[np.void]
    lanes: NDArray[np.int32]
    follows: NDArray[np.uint8]
    step_levels: NDArray[np.int16]
    widths: NDArray[np.uint8]
    starts: Int64
    overflow_starts: Int64


class UnpackingMemory:
    """Hold what matrices are unpacked into, which may be others later.

    It is set aside for the widest tiles. The system gives only what is written to.
    """

    def __init__(
        self, batches: Sequence[Sequence[EncodedMatrix]], threads: int, arena: Arena | None = None
    ) -> None:
        """Set memory aside for any of several batches of matrices, one at a time.

        Args:
            batches: all that will be unpacked.
            threads: unpack.
            arena: where the tiles go; None for memory of their own.
        """
        tiles = max(sum(_count_tiles(matrix) for matrix in batch) for batch in batches)
        size = tiles * WIDTHS[-1] * VECTOR_BYTES
        self.values: PanelValues = arena.zeros(size) if arena else np.empty(size, np.uint8)
        self.overflow_tiles: NDArray[np.void] = np.empty(tiles, OVERFLOW_TILE)
        self.overflow_values: PanelValues = np.empty(tiles * OVERFLOW_BYTES, np.uint8)
        self.threads = threads
        self.places, self.scratch_bytes = _scratch([own for batch in batches for own in batch])
        self._scratch = np.empty(2 * threads * self.scratch_bytes + _LINE, np.uint8)

    @property
    def scratch(self) -> int:
        """Return the address of the scratch memory, of two blocks a thread."""
        return -(-address(self._scratch) // _LINE) * _LINE


class Unpacking:
    """Unpack matrices, once or several times, always to the same places."""

    def __init__(self, matrices: Sequence[EncodedMatrix], memory: UnpackingMemory) -> None:
        """Prepare the job.

        Args:
            matrices: are placed in this order. A thread waits for the blocks before its own, the
                first time, so those of much work should come first.
            memory: that the matrices are part of.
        """
        self._matrices = matrices
        self._memory = memory
        self._units = np.zeros(sum(len(matrix.blocks) for matrix in matrices), UNPACK_UNIT)
        self._kept: list[NDArray[np.generic]] = []  # what addresses point to
        self._outputs: list[_Outputs] = []
        done = 0
        for matrix in matrices:
            units = self._units[done : done + len(matrix.blocks)]
            self._outputs.append(self._fill(matrix, units))
            done += len(matrix.blocks)
        self._job = self._make_job()

    def run(self, team: Team | None = None) -> None:
        """Unpack all matrices, by a team's threads or by the calling one."""
        self._job["next"] = 0
        if team is None:
            (program,) = load([UNPACK_BLOCKS])
            program(0, 1, address(self._job))
        else:
            (program,) = load([UNPACK_BLOCKS], team.instructions)
            team.run(program, address(self._job), self._memory.threads)

    @property
    def unused_bytes(self) -> int:
        """Return how many bytes at the end of the memory were not written to."""
        return (
            address(self._memory.values)
            + self._memory.values.size
            - int(self._units["end_values"][-1])
        )

    def panels(self, index: int) -> TrellisPanels:
        """Return a matrix, whose tiles are views of the memory.

        Raises:
            PayloadError: its words are wrong, or a step is not finite.
        """
        matrix, outputs = self._matrices[index], self._outputs[index]
        if (outputs.units["state"] == DAMAGED).any():
            raise PayloadError("entropy-coded words do not end where their integers do")
        lanes = outputs.lanes.reshape(-1)
        column_steps = np.empty(matrix.shape[1], np.float32)
        column_steps[lanes[lanes >= 0]] = matrix.steps_of(outputs.step_levels)
        first = int(outputs.units["matrix_values"][0]) - address(self._memory.values)
        return TrellisPanels(
            self._memory.values[first : first + int(outputs.starts[-1])],
            outputs.widths,
            self._overflow(outputs),
            outputs.lanes,
            outputs.follows,
            matrix.states,
            np.ones(matrix.shape[0], np.float32),
            column_steps,
            matrix.shape,
        )

    def _overflow(self, outputs: _Outputs) -> OverflowTiles:
        """Return the overflow tiles of a matrix."""
        counts = np.diff(outputs.overflow_starts)
        first, count = int(outputs.units["matrix_overflow"][0]), int(counts.sum())
        own = self._memory.overflow_tiles[first : first + count]
        bits = (own["layout"] - LAYOUTS.index(EVEN[0]) + 1).astype(np.uint8)
        start = int(own["values"][0]) - address(self._memory.overflow_values) if count else 0
        size = VECTOR_BYTES * int(bits.sum(dtype=np.int64))
        tiles = np.repeat(np.arange(len(counts)), counts) * outputs.widths.shape[1] + own["tile"]
        return OverflowTiles(tiles, bits, self._memory.overflow_values[start : start + size])

    def _fill(self, matrix: EncodedMatrix, units: NDArray[np.void]) -> _Outputs:
        """Fill the records of a matrix's blocks; return what they write to."""
        rows, columns = matrix.shape
        panels = _panels(matrix)
        outputs = _Outputs(
            units,
            np.full((sum(panels), PANEL_COLUMNS), -1, np.int32),
            np.ones(sum(panels), np.uint8),
            np.empty(columns, np.int16),
            np.empty((sum(panels), -(-rows // TILE_ROWS)), np.uint8),
            np.zeros(sum(panels) + 1, np.int64),
            np.zeros(sum(panels) + 1, np.int64),
        )
        units["begins"][0] = 1
        panel = 0
        for index, own in enumerate(column_blocks(columns)):
            reader, order = matrix.open_block(index)
            outputs.follows[panel] = 0
            outputs.lanes[panel:].reshape(-1)[: order.size] = own.start + order
            outputs.step_levels[own] = matrix.along_trellis(reader.steps, order)
            self._fill_unit(units[index], matrix, index, reader, order)
            units["widths"][index] = address(outputs.widths[panel:])
            units["starts"][index] = address(outputs.starts[panel:])
            units["overflow_starts"][index] = address(outputs.overflow_starts[panel:])
            panel += panels[index]
        return outputs

    def _fill_unit(
        self,
        unit: NDArray[np.void],
        matrix: EncodedMatrix,
        index: int,
        reader: BlockReader,
        order: Int64,
    ) -> None:
        """Fill what a record says of a block whose levels are decoded."""
        along = np.ascontiguousarray(matrix.along_trellis(reader.columns, order))
        self._kept += [reader.words, reader.states, reader.taps, reader.rows, along]
        unit["words"], unit["word_count"] = address(reader.words), matrix.blocks[index].words.size
        unit["position"], unit["lane_states"] = reader.position, address(reader.states)
        unit["taps"] = address(reader.taps)
        unit["rows"], unit["columns"] = reader.rows.size, along.size
        unit["row_levels"], unit["column_levels"] = address(reader.rows), address(along)

    def _make_job(self) -> NDArray[np.void]:
        """Return the job's record."""
        found = np.zeros(1, UNPACK_JOB)
        job, memory = found[0], self._memory
        slots = entropy_tables().slots
        self._kept.append(slots)
        job["units"], job["count"] = address(self._units), len(self._units)
        job["slots"], job["values"] = address(slots), address(memory.values)
        job["overflow_tiles"] = address(memory.overflow_tiles)
        job["overflow_values"] = address(memory.overflow_values)
        job["scratch"], job["scratch_bytes"] = memory.scratch, memory.scratch_bytes
        for field, place in memory.places.items():
            job[field] = place
        return found


def _scratch(matrices: Sequence[EncodedMatrix]) -> tuple[dict[str, int], int]:
    """Return where a block's arrays lie in its scratch memory, by field, and the bytes of it."""
    panels = max(max(_panels(matrix)) for matrix in matrices)
    tiles = max(max(_panels(matrix)) * -(-matrix.shape[0] // TILE_ROWS) for matrix in matrices)
    padded = panels * PANEL_COLUMNS
    places, used = {}, 4 * rans.LANES  # the lanes' states come first
    for field, size in (
        ("bits", 4 * (rans.HISTORY + padded)), ("tile", 2 * TILE_ROWS * padded),
        ("overflow_bits", tiles), ("tiles", PACKED_BYTES * tiles),
        ("overflow", OVERFLOW_BYTES * tiles),
    ):  # fmt: skip
        places[field] = used
        used += -(-size // _LINE) * _LINE
    return places, used


def _panels(matrix: EncodedMatrix) -> list[int]:
    """Return the number of panels of each block."""
    blocks = column_blocks(matrix.shape[1])
    return [-(-(own.stop - own.start) // PANEL_COLUMNS) for own in blocks]


def _count_tiles(matrix: EncodedMatrix) -> int:
    return sum(_panels(matrix)) * -(-matrix.shape[0] // TILE_ROWS)
