"""Define the programs of the entropy coder, which are compiled (rans.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    MAX_LEVEL,
    MIN_LEVEL,
    PROBABILITY_BITS,
    SYMBOL_OFFSET,
    SYMBOLS,
    Labels,
)
from rbe_cli.codec.entropy.rans import (
    LANES,
    LOW,
    DecoderTables,
    EncoderTables,
    Levels,
    States,
    Words,
)
from rbe_cli.codec.entropy.symbol_programs import next_state, symbol_of
from rbe_cli.runtime.jit import program_code

_int64: Callable[..., Any] = np.int64  # in compiled code, all integers here have the type int
_SLOTS = (1 << PROBABILITY_BITS) - 1


@program_code
def _level_index(level: int) -> int:
    return min(max(level, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL


@program_code
def _put_raw(states: States, lane: int, value: int, count: int, words: Words, position: int) -> int:
    """Code `count` uniform bits, and return the new position. Words are written backwards."""
    x = states[lane]
    if x >> (32 - count):
        position -= 1
        words[position] = x & 0xFFFF
        x >>= 16
    states[lane] = (x << count) | value
    return position


@program_code
def _put(
    states: States,
    lane: int,
    q: int,
    level: int,
    z: int,
    tables: EncoderTables,
    words: Words,
    position: int,
) -> int:
    """Code q with a level's table. The bits that the decoder reads last are written first."""
    frequency, cumulative, shift = tables
    low_bits = shift[level]
    symbol = symbol_of(q, low_bits)
    if frequency[level, z, symbol] == 0:
        symbol = ESCAPE
    if symbol == ESCAPE:
        position = _put_raw(
            states, lane, q + (1 << (ESCAPE_BITS - 1)), ESCAPE_BITS, words, position
        )
    elif low_bits > 0:
        position = _put_raw(states, lane, q & ((1 << low_bits) - 1), low_bits, words, position)
    x, f = states[lane], np.int64(frequency[level, z, symbol])
    if x >= f << (32 - PROBABILITY_BITS):
        position -= 1
        words[position] = x & 0xFFFF
        x >>= 16
    states[lane] = ((x // f) << PROBABILITY_BITS) + x % f + cumulative[level, z, symbol]
    return position


@program_code
def _put_run(
    values: NDArray[np.int16],
    mean: int,
    level: int,
    tables: EncoderTables,
    states: States,
    words: Words,
    position: int,
) -> int:
    """Code integers minus their mean with one level's table, by all lanes in turn."""
    index, lanes = _level_index(level), states.shape[0]
    for i in range(values.shape[0] - 1, -1, -1):
        position = _put(states, i % lanes, values[i] - mean, index, 0, tables, words, position)
    return position


@program_code
def encode_block(
    arithmetic: Any,
    values: NDArray[np.int32],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    scale_models: NDArray[np.int16],
    labels: Labels,
    frequency: NDArray[np.uint16],
    cumulative: NDArray[np.uint16],
    shift: NDArray[np.int64],
    states: States,
    offsets: NDArray[np.uint8],
    words: Words,
) -> int:
    """Code a block into the end of `words`, and return the position of the first word.

    `offsets` `[LANES, B]` is overwritten.
    """
    tables = frequency, cumulative, shift
    count, width = values.shape
    position = words.shape[0]
    for first in range((count - 1) // LANES * LANES, -1, -LANES):
        lanes = min(LANES, count - first)
        for lane in range(lanes):
            state = 0
            for j in range(width):
                label = labels[state]
                offsets[lane, j] = label >> 1
                state = next_state(state, label, values[first + lane, j] >> 1, labels.shape[0])
        for j in range(width - 1, -1, -1):
            for lane in range(lanes - 1, -1, -1):
                i = first + lane
                level = _level_index(rows[i] + columns[j])
                position = _put(
                    states,
                    lane,
                    values[i, j] >> 1,
                    level,
                    offsets[lane, j],
                    tables,
                    words,
                    position,
                )
    for scales, kind in ((steps, 2), (columns, 1), (rows, 0)):
        mean, level = scale_models[kind, 0], scale_models[kind, 1]
        position = _put_run(scales, mean, level, tables, states, words, position)
    return position


@program_code
def _refill(x: int, words: Words, position: int) -> tuple[int, int]:
    """Return (state, position), where the state has read a word if it was below `LOW`.

    The last element of `words` is read for all positions after the end.
    """
    is_low = x < LOW
    word = _int64(words[np.uint64(min(position, words.shape[0] - 1))])
    # Both results are computed. The condition is as random as the weights, so that a branch on it
    # would be mispredicted half the time.
    return (x << 16) | word if is_low else x, position + _int64(is_low)


@program_code
def _get(
    x: int, level: int, z: int, tables: DecoderTables, words: Words, position: int
) -> tuple[int, int, int]:
    """Return (q, state, position)."""
    symbols, spans, shift = tables
    table = 2 * level + z
    slot = x & _SLOTS
    symbol = _int64(symbols[np.uint64((table << PROBABILITY_BITS) | slot)])
    span = _int64(spans[np.uint64(table * SYMBOLS + symbol)])
    x = (span >> 16) * (x >> PROBABILITY_BITS) + slot - (span & 0xFFFF)
    x, position = _refill(x, words, position)
    low_bits = shift[np.uint64(level)]
    if symbol == ESCAPE:
        q = (x & ((1 << ESCAPE_BITS) - 1)) - (1 << (ESCAPE_BITS - 1))
        x, position = _refill(x >> ESCAPE_BITS, words, position)
    elif low_bits > 0:
        q = ((symbol - SYMBOL_OFFSET) << low_bits) | (x & ((1 << low_bits) - 1))
        x, position = _refill(x >> low_bits, words, position)
    else:
        q = symbol - SYMBOL_OFFSET
    return q, x, position


@program_code
def _get_run(
    words: Words,
    position: int,
    states: States,
    tables: DecoderTables,
    mean: int,
    level: int,
    values: NDArray[np.int16],
) -> int:
    """Decode what `_put_run` wrote: fill `values`, and return the new position."""
    index, lanes = _level_index(level), states.shape[0]
    for i in range(values.shape[0]):
        lane = i % lanes
        q, states[lane], position = _get(states[lane], index, 0, tables, words, position)
        values[i] = q + mean
    return position


@program_code
def decode_block(
    arithmetic: Any,
    words: Words,
    states: States,
    scale_models: NDArray[np.int16],
    labels: Labels,
    symbols: NDArray[np.uint8],
    spans: NDArray[np.uint32],
    shift: NDArray[np.int64],
    order: NDArray[np.int64],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    trellis: NDArray[np.int64],
    tile: NDArray[np.int16],
    values: NDArray[np.int16],
) -> int:
    """Decode a block, and return the position after the last word.

    It fills `rows`, `columns`, `steps` and `values`. `order` gives the places of the columns of
    `values`; the levels stay in the order of the trellis. `trellis` `[LANES]`, the states of the
    lanes, and `tile` `[B, LANES]`, which is filled in order of decoding and then transposed, are
    overwritten.
    """
    tables = symbols, spans, shift
    position = 0
    for scales, kind in ((rows, 0), (columns, 1), (steps, 2)):
        mean, level = scale_models[kind, 0], scale_models[kind, 1]
        position = _get_run(words, position, states, tables, mean, level, scales)
    count, width = values.shape
    trellis_states = labels.shape[0]
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        trellis[:] = 0
        for j in range(width):
            for lane in range(lanes):
                level = _level_index(_int64(rows[first + lane]) + columns[j])
                state = trellis[lane]
                label = _int64(labels[np.uint64(state)])
                z = label >> 1
                q, states[lane], position = _get(states[lane], level, z, tables, words, position)
                tile[j, lane] = 2 * q + z
                trellis[lane] = next_state(state, label, q, trellis_states)
        for lane in range(lanes):
            for j in range(width):
                values[first + lane, order[j]] = tile[j, lane]
    return position


@program_code
def put_run_program(
    arithmetic: Any,
    values: NDArray[np.int16],
    mean: int,
    level: int,
    frequency: NDArray[np.uint16],
    cumulative: NDArray[np.uint16],
    shift: NDArray[np.int64],
    states: States,
    words: Words,
    position: int,
) -> int:
    """Run `_put_run` with its tables as separate arguments."""
    tables = frequency, cumulative, shift
    return _put_run(values, mean, level, tables, states, words, position)


@program_code
def get_run_program(
    arithmetic: Any,
    words: Words,
    position: int,
    states: States,
    symbols: NDArray[np.uint8],
    spans: NDArray[np.uint32],
    shift: NDArray[np.int64],
    mean: int,
    level: int,
    values: NDArray[np.int16],
) -> int:
    """Run `_get_run` with its tables as separate arguments."""
    tables = symbols, spans, shift
    return _get_run(words, position, states, tables, mean, level, values)
