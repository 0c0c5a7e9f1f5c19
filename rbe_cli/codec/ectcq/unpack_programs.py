"""Define the program that turns blocks of entropy-coded integers into panels, by a team.

A thread takes two blocks at a time, decodes 32 rows of each, and packs them into tiles. How
many bytes a tile takes is known only then, so tiles lie in scratch memory until their block is
whole. Blocks are placed one after the other: a thread that is done waits until the block before has
told where it ends, which it does before it is copied.
"""

from typing import Any, NamedTuple

import numpy as np

from rbe_cli.codec.ectcq.tile_packer import (
    magnitude_bits,
    pack_codes,
    pack_overflow,
    pack_plane,
)
from rbe_cli.codec.ectcq.unpack_records import (
    DAMAGED,
    OVERFLOW_BYTES,
    PACKED_BYTES,
    PLACED,
    UNPACK_JOB,
    UNPACK_UNIT,
    WAITING,
)
from rbe_cli.codec.entropy.entropy_model import LEVELS, PROBABILITY_BITS
from rbe_cli.codec.entropy.rans import HISTORY, LANES, LOW
from rbe_cli.codec.entropy.rans_decoder import LaneSource, Stream, decode_columns, decode_two
from rbe_cli.runtime.array_views import array_at
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.lane_masks import has_gathers, store_ints
from rbe_cli.runtime.simd import (
    address_of,
    fetch_add,
    load_acquire,
    load_byte,
    load_ints,
    pause,
    record,
    record_at,
    store_byte,
    store_int,
    store_release,
)
from rbe_cli.weights.matrix_record import OVERFLOW_TILE
from rbe_cli.weights.panel_layout import EVEN, LAYOUTS, PANEL_COLUMNS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_layout import GROUP_TILES, WIDTHS

_INT16, _UINT16, _UINT32, _INT64 = (np.dtype(n) for n in ("i2", "u2", "u4", "i8"))
_SLOTS = LEVELS * 2 << PROBABILITY_BITS
_WIDEST = WIDTHS[-1]
_PANEL_BYTES = 2 * PANEL_COLUMNS * TILE_ROWS  # of integers
_FIRST_LAYOUT = LAYOUTS.index(EVEN[0])


class _Block(NamedTuple):
    """Hold a block that is unpacked: its number, its scratch memory, and its `Stream`."""

    number: int
    scratch: int
    stream: Any


@program_code
def unpack_blocks(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Unpack the blocks of a job, as one of `parts` threads."""
    job = record(UNPACK_JOB, job_address)
    scratch = job.scratch + 2 * part * job.scratch_bytes
    number = fetch_add(job_address, 2)
    while number < job.count:
        block = _begin(job, number, scratch)
        if number + 1 < job.count:
            other = _begin(job, number + 1, scratch + job.scratch_bytes)
            one, two = _unpack_two(arithmetic, job, block, other)
            _unpack(arithmetic, job, block, one)
            _unpack(arithmetic, job, other, two)
            _place(job, block)
            _place(job, other)
        else:
            _unpack(arithmetic, job, block, _start(job, block))
            _place(job, block)
        number = fetch_add(job_address, 2)


@program_code
def _begin(job: Any, number: int, scratch: int) -> Any:
    """Return a block that is about to be unpacked."""
    unit = record_at(UNPACK_UNIT, job.units, number)
    for lane in range(0, LANES, 16):
        store_ints(scratch + 4 * lane, load_ints(unit.lane_states + 4 * lane))
    source = LaneSource(
        array_at(_UINT16, unit.words, max(unit.word_count, 1)),
        array_at(_UINT32, scratch, LANES),
        array_at(_UINT32, job.slots, _SLOTS),
        array_at(_INT64, unit.taps, 6),
    )
    padded = -(-unit.columns // PANEL_COLUMNS) * PANEL_COLUMNS
    stream = Stream(
        source,
        array_at(_INT16, unit.row_levels, unit.rows),
        array_at(_INT16, unit.column_levels, unit.columns),
        array_at(_UINT32, scratch + job.bits, HISTORY + padded),
        array_at(_INT16, scratch + job.tile, LANES * padded),
    )
    stream.bits[:] = 0
    stream.tile[:] = 0
    unit.vectors, unit.overflow, unit.overflow_vectors = 0, 0, 0
    return _Block(number, scratch, stream)


class _Progress(NamedTuple):
    """Say where a block goes on: the row, the column, and the position among the words."""

    row: int
    column: int
    position: int


@program_code
def _start(job: Any, block: Any) -> Any:
    return _Progress(0, 0, record_at(UNPACK_UNIT, job.units, block.number).position)


@program_code
def _unpack_two(arithmetic: Any, job: Any, block: Any, other: Any) -> tuple[Any, Any]:
    """Decode and pack two blocks as long as both have 32 rows; return where they go on."""
    one, two = _start(job, block), _start(job, other)
    if has_gathers(arithmetic):
        width, other_width = len(block.stream.columns), len(other.stream.columns)
        last, other_last = len(block.stream.rows) - LANES, len(other.stream.rows) - LANES
        while one.row <= last and two.row <= other_last:
            count = min(width - one.column, other_width - two.column)
            position, other_position = decode_two(
                arithmetic, block.stream, one.row, one.column, one.position,
                other.stream, two.row, two.column, two.position, count,
            )  # fmt: skip
            one = _advance(job, block, _Progress(one.row, one.column + count, position))
            two = _advance(job, other, _Progress(two.row, two.column + count, other_position))
    return one, two


@program_code
def _advance(job: Any, block: Any, own: Any) -> Any:
    """Pack 32 rows if all of their columns are decoded; return where the block goes on."""
    if own.column < len(block.stream.columns):
        return own
    _pack(job, block, own.row // LANES)
    return _Progress(own.row + LANES, 0, own.position)


@program_code
def _unpack(arithmetic: Any, job: Any, block: Any, own: Any) -> None:
    """Decode and pack what is left of a block, and check its end."""
    unit = record_at(UNPACK_UNIT, job.units, block.number)
    stream = block.stream
    while own.row < unit.rows:
        if unit.rows - own.row < LANES:
            stream.tile[:] = 0
        position = decode_columns(
            arithmetic, stream, own.row, own.column, unit.columns, own.position
        )
        own = _advance(job, block, _Progress(own.row, unit.columns, position))
    is_whole = own.position == unit.word_count
    for lane in range(LANES):
        is_whole = is_whole and stream.source.states[lane] == LOW
    unit.is_whole = is_whole
    if not is_whole:
        unit.vectors, unit.overflow, unit.overflow_vectors = 0, 0, 0


@program_code
def _pack(job: Any, block: Any, row: int) -> None:
    """Pack a row of tiles into scratch memory, and count what it takes."""
    unit, scratch = record_at(UNPACK_UNIT, job.units, block.number), block.scratch
    tiles = -(-unit.rows // TILE_ROWS)
    vectors = 0
    for panel in range(-(-unit.columns // PANEL_COLUMNS)):
        number = panel * tiles + row
        integers = scratch + job.tile + _PANEL_BYTES * panel
        out = scratch + job.tiles + PACKED_BYTES * number
        pack_plane(scratch + job.bits + 4 * HISTORY + VECTOR_BYTES * panel, out)
        needed = max(magnitude_bits(integers), 1)
        width = min(needed, _WIDEST)
        overflow_bits = needed - width
        offset = 1 << width if overflow_bits == 0 else 0
        pack_codes(integers, width, offset, out + VECTOR_BYTES)
        if overflow_bits > 0:
            own = scratch + job.overflow + OVERFLOW_BYTES * number
            pack_overflow(integers, overflow_bits, own)
            unit.overflow += 1
            unit.overflow_vectors += overflow_bits
        vectors += width
        store_byte(unit.widths + number, width)
        store_byte(scratch + job.overflow_bits + number, overflow_bits)
    unit.vectors += vectors


@program_code
def _place(job: Any, block: Any) -> None:
    """Place a packed block after the one before, as soon as that has told where it ends."""
    unit = record_at(UNPACK_UNIT, job.units, block.number)
    values, overflow, overflow_values = job.values, 0, job.overflow_values
    if block.number > 0:
        before = record_at(UNPACK_UNIT, job.units, block.number - 1)
        while load_acquire(address_of(before)) == WAITING:
            pause()
        values, overflow = before.end_values, before.end_overflow
        overflow_values = before.end_overflow_values
        unit.matrix_values, unit.matrix_overflow = before.matrix_values, before.matrix_overflow
    if unit.begins != 0:
        unit.matrix_values, unit.matrix_overflow = values, overflow
    unit.end_values = values + VECTOR_BYTES * unit.vectors
    unit.end_overflow = overflow + unit.overflow
    unit.end_overflow_values = overflow_values + VECTOR_BYTES * unit.overflow_vectors
    store_release(address_of(unit), PLACED if unit.is_whole != 0 else DAMAGED)
    if unit.is_whole != 0:
        _copy_block(job, block, values, overflow, overflow_values)


@program_code
def _copy_block(job: Any, block: Any, values: int, overflow: int, overflow_values: int) -> None:
    """Copy a packed block to its place, and write where its panels begin."""
    unit, scratch = record_at(UNPACK_UNIT, job.units, block.number), block.scratch
    tiles, panels = -(-unit.rows // TILE_ROWS), -(-unit.columns // PANEL_COLUMNS)
    for panel in range(panels):
        store_int(unit.starts + 8 * panel, values - unit.matrix_values)
        store_int(unit.overflow_starts + 8 * panel, overflow - unit.matrix_overflow)
        for tile in range(tiles):
            number = panel * tiles + tile
            packed = scratch + job.tiles + PACKED_BYTES * number
            _copy(packed, values + VECTOR_BYTES * tile, 1)
            bits = load_byte(scratch + job.overflow_bits + number)
            if bits > 0:
                own = record_at(OVERFLOW_TILE, job.overflow_tiles, overflow)
                own.tile, own.layout = tile, _FIRST_LAYOUT + bits - 1
                own.values = overflow_values
                _copy(scratch + job.overflow + OVERFLOW_BYTES * number, overflow_values, bits)
                overflow_values += VECTOR_BYTES * bits
                overflow += 1
        values = _copy_codes(job, block, panel, tiles, values + VECTOR_BYTES * tiles)
    store_int(unit.starts + 8 * panels, values - unit.matrix_values)
    store_int(unit.overflow_starts + 8 * panels, overflow - unit.matrix_overflow)


@program_code
def _copy_codes(job: Any, block: Any, panel: int, tiles: int, out: int) -> int:
    """Copy a panel's codes in the order of `trellis_layout.tile_order`; return their end."""
    widths = record_at(UNPACK_UNIT, job.units, block.number).widths + panel * tiles
    packed = block.scratch + job.tiles + PACKED_BYTES * panel * tiles + VECTOR_BYTES
    for first in range(0, tiles, GROUP_TILES):
        last = min(first + GROUP_TILES, tiles)
        for width in range(2, _WIDEST + 1):
            for tile in range(first, last):
                if load_byte(widths + tile) == width:
                    _copy(packed + PACKED_BYTES * tile, out, width - 1)
                    out += VECTOR_BYTES * (width - 1)
    return out


@program_code
def _copy(source: int, out: int, count: int) -> None:
    """Copy vectors of 64 bytes."""
    for vector in range(count):
        store_ints(out + VECTOR_BYTES * vector, load_ints(source + VECTOR_BYTES * vector))
