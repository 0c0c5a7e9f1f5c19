"""Decode the rows of a block, 32 at once, in compiled code (rans.py).

A row's integers n = 2 q + z follow a trellis, whose state is a window of the last bits u that were
shifted into it: u is the lowest bit of q, z an exclusive or of earlier u, and q's lowest bit that
of u and of earlier u (`Taps`). Thus 32 rows' states are words of 32 bits, one for each column, and
z of the next column is an exclusive or of words.

With x the state of a lane after its symbol, the lane reads a word if x < 2 ** 16, and another one
after its b low bits if x < 2 ** b, or 2 ** 16 <= x < 2 ** (16 + b). As the words themselves do not
matter, all lanes know at once which words are theirs.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    LAST_WHOLE_LEVEL,
    LEVELS,
    LEVELS_PER_OCTAVE,
    MAX_LEVEL,
    MIN_LEVEL,
    PROBABILITY_BITS,
    SYMBOL_OFFSET,
)
from rbe_cli.codec.entropy.rans import HISTORY, LANES, LOW, Levels, Words
from rbe_cli.runtime.array_views import address_of_array
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.lane_masks import (
    below,
    below_shorts,
    count_ones,
    equal,
    even_lanes,
    expand_words,
    gather,
    has_gathers,
    larger_int,
    load_shorts,
    odd_lanes,
    select,
    shift_right,
    smaller_int,
    store_ints,
    store_shorts,
)
from rbe_cli.runtime.simd import load_ints, splat_int

_SLOTS = (1 << PROBABILITY_BITS) - 1
_TABLE_BITS = PROBABILITY_BITS + 1  # a level has a table for z = 0 and one for z = 1
_ESCAPE_HIGH = ESCAPE - SYMBOL_OFFSET
_MOST_WORDS = 2 * LANES  # of a column

_int64: Any = np.int64


class LaneSource(NamedTuple):
    """Say what is decoded.

    Attributes:
        words: uint16, not empty; the last one is read for all positions after the end.
        states: uint32 `[32]`, the states of the lanes, which change.
        slots: uint32 `[levels, 2, 2 ** 12]`, flat: for each slot its symbol's frequency << 20, its
            high part & 255 << 12, and the slot's distance from the symbol's first.
        taps: int64 `[2, 3]`, flat: z is u of (first number) columns before, ^ u of (second number)
            columns before if the third number is not 0; the lowest bit of q is u ^ the same by the
            second row.
    """

    words: Words
    states: NDArray[np.uint32]
    slots: NDArray[np.uint32]
    taps: NDArray[np.int64]


class Stream(NamedTuple):
    """Hold a block that is decoded.

    Attributes:
        source: its words.
        rows, columns: int16 `[K]` and `[B]`, levels.
        bits: uint32 `[HISTORY + B]`, zeros first; the rest is overwritten.
        tile: int16 `[B, 32]`, flat, overwritten with the integers of 32 rows.
    """

    source: LaneSource
    rows: Levels
    columns: Levels
    bits: NDArray[np.uint32]
    tile: NDArray[np.int16]


@program_code
def level_index(level: int) -> int:
    """Return the place of a level's tables."""
    return min(max(level, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL


@program_code
def _refill(x: int, words: Words, position: int) -> tuple[int, int]:
    """Return (state, position), where the state has read a word if it was below `LOW`."""
    is_low = x < LOW
    word = _int64(words[np.uint64(min(position, words.shape[0] - 1))])
    # Both results are computed. The condition is as random as the weights, so that a branch on it
    # would be mispredicted half the time.
    return (x << 16) | word if is_low else x, position + _int64(is_low)


@program_code
def get(source: Any, x: int, level: int, z: int, position: int) -> tuple[int, int, int]:
    """Return (q, state, position)."""
    entry = _int64(source.slots[np.uint64((2 * level + z) << PROBABILITY_BITS | (x & _SLOTS))])
    high = ((entry >> PROBABILITY_BITS & 255) ^ 128) - 128
    x = (entry >> 20) * (x >> PROBABILITY_BITS) + (entry & _SLOTS)
    x, position = _refill(x, source.words, position)
    if high == _ESCAPE_HIGH:
        q = (x & ((1 << ESCAPE_BITS) - 1)) - (1 << (ESCAPE_BITS - 1))
        x, position = _refill(x >> ESCAPE_BITS, source.words, position)
        return q, x, position
    low_bits = low_bits_of(level)
    if low_bits > 0:
        q = (high << low_bits) | (x & ((1 << low_bits) - 1))
        x, position = _refill(x >> low_bits, source.words, position)
        return q, x, position
    return high, x, position


@program_code
def low_bits_of(level: int) -> int:
    """Return the number of low bits of a level, by its place."""
    return max(0, (level + MIN_LEVEL - LAST_WHOLE_LEVEL + LEVELS_PER_OCTAVE - 1) >> 3)


@program_code
def _column(stream: Any, row: int, lanes: int, column: int, position: int) -> int:
    """Decode a column lane by lane, and return the new position."""
    source = stream.source
    z, parity = _before(stream, column)
    lowest = 0
    for lane in range(lanes):
        level = _int64(stream.rows[row + lane]) + stream.columns[column]
        offset = (z >> lane) & 1
        x = _int64(source.states[lane])
        q, x, position = get(source, x, level_index(level), offset, position)
        source.states[lane] = x
        stream.tile[LANES * column + lane] = 2 * q + offset
        lowest |= (q & 1) << lane
    stream.bits[HISTORY + column] = lowest ^ parity
    return position


@program_code
def _before(stream: Any, column: int) -> tuple[int, int]:
    """Return z of a column's rows, and what their u differ by from the lowest bits of q."""
    bits, taps, place = stream.bits, stream.source.taps, HISTORY + column
    z = bits[place - taps[0]] ^ (bits[place - taps[1]] & taps[2])
    return _int64(z), _int64(bits[place - taps[3]] ^ (bits[place - taps[4]] & taps[5]))


@program_code
def _indices(levels: Any, level: int, z: int, x: Any) -> Any:
    """Return the places of the slots of 16 lanes."""
    sums = levels + splat_int(np.int32(level << _TABLE_BITS))
    sums = larger_int(sums, splat_int(0))
    sums = smaller_int(sums, splat_int((LEVELS - 1) << _TABLE_BITS))
    sums = select(z, sums | splat_int(1 << PROBABILITY_BITS), sums)
    return sums | (x & splat_int(_SLOTS))


@program_code
def _after_symbol(entry: Any, x: Any) -> Any:
    quotient = shift_right(x, splat_int(PROBABILITY_BITS))
    return shift_right(entry, splat_int(20)) * quotient + (entry & splat_int(_SLOTS))


@program_code
def _high(entry: Any) -> Any:
    return (entry << splat_int(12)) >> splat_int(24)


@program_code
def _refill_lanes(arithmetic: Any, x: Any, place: int) -> tuple[Any, int]:
    """Return (states, address): lanes below `LOW` have read a word."""
    mask = below(x, splat_int(LOW))
    words = expand_words(arithmetic, place, mask)
    return select(mask, (x << splat_int(16)) | words, x), place + 2 * count_ones(mask)


@program_code
def _store(tile_place: int, q: Any, z: int) -> int:
    """Store 16 integers, and return the lowest bits of q."""
    doubled = q + q
    store_shorts(tile_place, select(z, doubled | splat_int(1), doubled))
    return equal(q & splat_int(1), splat_int(1))


class _Group(NamedTuple):
    """Hold what 32 rows have in common while they are decoded.

    Attributes:
        first, second: the rows' levels, in 16 lanes each, as the indices of slots have them.
        top: the largest of them.
    """

    first: Any
    second: Any
    top: int


@program_code
def _group(stream: Any, row: int) -> Any:
    """Return the group of the rows that begin with `row`."""
    rows = address_of_array(stream.rows) + 2 * row
    lowest = splat_int(-MIN_LEVEL)
    first = (load_shorts(rows) + lowest) << splat_int(_TABLE_BITS)
    second = (load_shorts(rows + LANES) + lowest) << splat_int(_TABLE_BITS)
    top = _int64(stream.rows[row])
    for lane in range(1, LANES):
        top = max(top, _int64(stream.rows[row + lane]))
    return _Group(first, second, top)


@program_code
def _vector_column(
    arithmetic: Any, stream: Any, group: Any, row: int, column: int, a: Any, b: Any, position: int
) -> tuple[Any, Any, int]:
    """Decode a column of 32 rows; return the states of the lanes, and the new position."""
    source, level = stream.source, _int64(stream.columns[column])
    z, parity = _before(stream, column)
    slots = address_of_array(source.slots)
    first = gather(arithmetic, slots, _indices(group.first, level, z, a))
    second = gather(arithmetic, slots, _indices(group.second, level, z >> 16, b))
    q, r = _high(first), _high(second)
    escape = splat_int(_ESCAPE_HIGH)
    if (equal(q, escape) | equal(r, escape)) != 0 or (
        position > source.words.shape[0] - _MOST_WORDS
    ):
        _store_states(source, a, b)
        position = _column(stream, row, LANES, column, position)
        a, b = _load_states(source)
        return a, b, position
    a, b = _after_symbol(first, a), _after_symbol(second, b)
    words = address_of_array(source.words)
    place = words + 2 * position
    if group.top + level <= LAST_WHOLE_LEVEL:
        a, place = _refill_lanes(arithmetic, a, place)
        b, place = _refill_lanes(arithmetic, b, place)
    else:
        q, a, place = _low_bits(arithmetic, group.first, level, q, a, place)
        r, b, place = _low_bits(arithmetic, group.second, level, r, b, place)
    tile = address_of_array(stream.tile) + 2 * LANES * column
    lowest = _store(tile, q, z) | _store(tile + LANES, r, z >> 16) << 16
    stream.bits[HISTORY + column] = lowest ^ parity
    return a, b, (place - words) >> 1


@program_code
def _load_states(source: Any) -> tuple[Any, Any]:
    place = address_of_array(source.states)
    return load_ints(place), load_ints(place + 64)


@program_code
def _store_states(source: Any, a: Any, b: Any) -> None:
    place = address_of_array(source.states)
    store_ints(place, a)
    store_ints(place + 64, b)


@program_code
def _low_bits(
    arithmetic: Any, levels: Any, level: int, high: Any, x: Any, place: int
) -> tuple[Any, Any, int]:
    """Return (q, states, address) of 16 lanes, whose states `x` are those after the symbol."""
    sums = levels + splat_int(np.int32(level << _TABLE_BITS))
    sums = larger_int(sums, splat_int(0))
    sums = smaller_int(sums, splat_int((LEVELS - 1) << _TABLE_BITS)) >> splat_int(_TABLE_BITS)
    count = (sums + splat_int(MIN_LEVEL - LAST_WHOLE_LEVEL + LEVELS_PER_OCTAVE - 1)) >> splat_int(3)
    count = larger_int(count, splat_int(0))
    ones = (splat_int(1) << count) - splat_int(1)
    # Two lanes of 16 bits for each: whether the first word is read, and the second.
    upper = shift_right(x, splat_int(16))
    is_low = below(x, splat_int(LOW))
    compared = select(is_low, x, upper)
    limits = (ones + splat_int(1)) & splat_int(-2)  # without low bits, none reads a second one
    reads = below_shorts(
        upper | (compared << splat_int(16)), (limits << splat_int(16)) | splat_int(1)
    )
    reads_second = below(compared, limits)
    low_words = expand_words(arithmetic, place, reads & 0xFFFF)
    place += 2 * count_ones(reads & 0xFFFF)
    high_words = expand_words(arithmetic, place, reads >> 16)
    place += 2 * count_ones(reads >> 16)
    x = select(is_low, (x << splat_int(16)) | even_lanes(low_words, high_words), x)
    q = (high << count) | (x & ones)
    x = shift_right(x, count)
    x = select(reads_second, (x << splat_int(16)) | odd_lanes(low_words, high_words), x)
    return q, x, place


@program_code
def decode_columns(
    arithmetic: Any, stream: Any, row: int, start: int, stop: int, position: int
) -> int:
    """Decode columns `start` to `stop` of at most 32 rows, and return the new position."""
    lanes = min(LANES, stream.rows.shape[0] - row)
    if has_gathers(arithmetic) and lanes == LANES:
        group = _group(stream, row)
        a, b = _load_states(stream.source)
        for column in range(start, stop):
            a, b, position = _vector_column(arithmetic, stream, group, row, column, a, b, position)
        _store_states(stream.source, a, b)
    else:
        for column in range(start, stop):
            position = _column(stream, row, lanes, column, position)
    return position


@program_code
def decode_two(
    arithmetic: Any, stream: Any, row: int, start: int, position: int,
    other: Any, other_row: int, other_start: int, other_position: int, count: int,
) -> tuple[int, int]:  # fmt: skip
    """Decode `count` columns of 32 rows of two streams, and return the new positions.

    They are decoded in turns, so that one's instructions fill the time in which the other waits.
    """
    group, other_group = _group(stream, row), _group(other, other_row)
    a, b = _load_states(stream.source)
    c, d = _load_states(other.source)
    for column in range(count):
        a, b, position = _vector_column(
            arithmetic, stream, group, row, start + column, a, b, position
        )
        c, d, other_position = _vector_column(
            arithmetic, other, other_group, other_row, other_start + column, c, d, other_position
        )
    _store_states(stream.source, a, b)
    _store_states(other.source, c, d)
    return position, other_position
