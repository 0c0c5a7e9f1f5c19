"""Define the programs of the entropy coder, which are compiled (rans.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    PROBABILITY_BITS,
    Labels,
)
from rbe_cli.codec.entropy.rans import (
    LANES,
    EncoderTables,
    Levels,
    States,
    Words,
)
from rbe_cli.codec.entropy.rans_decoder import LaneSource, Stream, decode_columns, get, level_index
from rbe_cli.codec.entropy.symbol_programs import next_state, symbol_of
from rbe_cli.runtime.jit import program_code

_int64: Callable[..., Any] = np.int64  # in compiled code, all integers here have the type int
_TRANSPOSED = 32  # columns at once, which stay in the nearest cache


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
    index, lanes = level_index(level), states.shape[0]
    for i in range(values.shape[0] - 1, -1, -1):
        position = _put(states, i % lanes, values[i] - mean, index, 0, tables, words, position)
    return position


@program_code
def encode_block(
    arithmetic: Any,
    values: NDArray[np.int32],
    along: Levels,
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
                level = level_index(rows[i] + along[j])
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
def _get_run(source: Any, position: int, mean: int, level: int, values: NDArray[np.int16]) -> int:
    """Decode what `_put_run` wrote: fill `values`, and return the new position."""
    index, lanes = level_index(level), source.states.shape[0]
    for i in range(values.shape[0]):
        lane = i % lanes
        q, x, position = get(source, _int64(source.states[lane]), index, 0, position)
        source.states[lane] = x
        values[i] = q + mean
    return position


@program_code
def decode_levels(
    arithmetic: Any,
    words: Words,
    states: NDArray[np.uint32],
    slots: NDArray[np.uint32],
    taps: NDArray[np.int64],
    scale_models: NDArray[np.int16],
    rows: Levels,
    columns: Levels,
    steps: Levels,
) -> int:
    """Decode the levels of a block from its first word on; return the position after the last."""
    source = LaneSource(words, states, slots, taps)
    position = 0
    for scales, kind in ((rows, 0), (columns, 1), (steps, 2)):
        mean, level = scale_models[kind, 0], scale_models[kind, 1]
        position = _get_run(source, position, mean, level, scales)
    return position


@program_code
def decode_block(
    arithmetic: Any,
    words: Words,
    states: NDArray[np.uint32],
    slots: NDArray[np.uint32],
    taps: NDArray[np.int64],
    position: int,
    rows: Levels,
    columns: Levels,
    bits: NDArray[np.uint32],
    tile: NDArray[np.int16],
    values: NDArray[np.int16],
) -> int:
    """Decode the integers of a block into `values`, and return the position after the last word.

    `columns` and `values` are in the order of the trellis. `bits` and `tile` are those of
    a `Stream`.
    """
    source = LaneSource(words, states, slots, taps)
    stream = Stream(source, rows, columns, bits, tile)
    count, width = values.shape
    for first in range(0, count, LANES):
        position = decode_columns(arithmetic, stream, first, 0, width, position)
        for start in range(0, width, _TRANSPOSED):
            for lane in range(min(LANES, count - first)):
                for j in range(start, min(start + _TRANSPOSED, width)):
                    values[first + lane, j] = tile[LANES * j + lane]
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
    states: NDArray[np.uint32],
    slots: NDArray[np.uint32],
    taps: NDArray[np.int64],
    mean: int,
    level: int,
    values: NDArray[np.int16],
) -> int:
    """Run `_get_run` from the first word on, with its source as separate arguments."""
    return _get_run(LaneSource(words, states, slots, taps), 0, mean, level, values)
