"""Interleaved rANS (Duda 2013; Giesen 2014) over a block of trellis integers.

32 lanes code 32 rows side by side, walking along the columns; each lane has its own
32-bit state and trellis state, and all share one stream of 16-bit words, read in lane
order. A decoder can therefore run the lanes in vector registers. The stream holds the
levels of the block's rows, of its columns and of their steps, then the weights, so that one
flush of the states pays for all of them. Columns come in the trellis's order throughout.
A single lane codes a vector's integers (codec/vector.py).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    MAX_LEVEL,
    MIN_LEVEL,
    PROBABILITY_BITS,
    SYMBOL_OFFSET,
    SYMBOLS,
    EntropyTables,
    entropy_tables,
)
from rbe_cli.codec.trellis import Labels, next_state, symbol_of
from rbe_cli.errors import PayloadError
from rbe_cli.jit import jit

Words = NDArray[np.uint16]
States = NDArray[np.int64]
Levels = NDArray[np.int16]
FlatTables = tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]]
"""symbol, span and shift of `EntropyTables` in one dimension: their index is computed once."""

_int64: Callable[..., Any] = np.int64  # to compiled code, all integers here are its int
LANES = 32
_LOW = 1 << 16  # a state between symbols lies in [_LOW, 2 ** 32)
_SLOTS = (1 << PROBABILITY_BITS) - 1


@jit()
def _level_index(level: int) -> int:
    return min(max(level, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL


@jit()
def _put_raw(states: States, lane: int, value: int, count: int, words: Words, position: int) -> int:
    """Code `count` uniform bits; returns the new position (words are written backwards)."""
    x = states[lane]
    if x >> (32 - count):
        position -= 1
        words[position] = x & 0xFFFF
        x >>= 16
    states[lane] = (x << count) | value
    return position


@jit()
def _put(
    states: States,
    lane: int,
    q: int,
    level: int,
    z: int,
    tables: EntropyTables,
    words: Words,
    position: int,
) -> int:
    """Code q under a level's table; what the decoder reads last is written first."""
    low_bits = tables.shift[level]
    symbol = symbol_of(q, low_bits)
    if tables.frequency[level, z, symbol] == 0:
        symbol = ESCAPE
    if symbol == ESCAPE:
        position = _put_raw(
            states, lane, q + (1 << (ESCAPE_BITS - 1)), ESCAPE_BITS, words, position
        )
    elif low_bits > 0:
        position = _put_raw(states, lane, q & ((1 << low_bits) - 1), low_bits, words, position)
    x, f = states[lane], np.int64(tables.frequency[level, z, symbol])
    if x >= f << (32 - PROBABILITY_BITS):
        position -= 1
        words[position] = x & 0xFFFF
        x >>= 16
    states[lane] = ((x // f) << PROBABILITY_BITS) + x % f + tables.cumulative[level, z, symbol]
    return position


@jit()
def _put_run(
    values: NDArray[np.int16],
    mean: int,
    level: int,
    tables: EntropyTables,
    states: States,
    words: Words,
    position: int,
) -> int:
    """Code integers less their mean under one level's table, the lanes taking turns."""
    index, lanes = _level_index(level), states.shape[0]
    for i in range(values.shape[0] - 1, -1, -1):
        position = _put(states, i % lanes, values[i] - mean, index, 0, tables, words, position)
    return position


@jit()
def _encode(
    values: NDArray[np.int32],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    scale_models: NDArray[np.int16],
    labels: Labels,
    tables: EntropyTables,
    states: States,
    words: Words,
) -> int:
    """Fill `words` from its end; returns the position of the first word."""
    count, width = values.shape
    position = words.shape[0]
    offsets = np.empty((LANES, width), np.uint8)
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


@jit()
def _refill(x: int, words: Words, position: int) -> tuple[int, int]:
    """Returns (state, position), the state with another word if it has room for one.

    `words` ends with a word of its own that stands for all words past the end.
    """
    is_low = x < _LOW
    word = _int64(words[np.uint64(min(position, words.shape[0] - 1))])
    # Both sides are computed: which one holds is as random as the weights, and a branch on it
    # would be mispredicted half the time.
    return (x << 16) | word if is_low else x, position + _int64(is_low)


@jit()
def _get(
    x: int, level: int, z: int, tables: FlatTables, words: Words, position: int
) -> tuple[int, int, int]:
    """Returns (q, state, position)."""
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


@jit()
def _get_run(
    words: Words,
    position: int,
    states: States,
    tables: FlatTables,
    mean: int,
    level: int,
    values: NDArray[np.int16],
) -> int:
    """The inverse of `_put_run`: fill `values`; returns the new position."""
    index, lanes = _level_index(level), states.shape[0]
    for i in range(values.shape[0]):
        lane = i % lanes
        q, states[lane], position = _get(states[lane], index, 0, tables, words, position)
        values[i] = q + mean
    return position


@jit()
def _decode(
    words: Words,
    states: States,
    scale_models: NDArray[np.int16],
    labels: Labels,
    tables: FlatTables,
    order: NDArray[np.int64],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    values: NDArray[np.int16],
) -> int:
    """Fill `rows`, `columns`, `steps` and `values`; returns the position after the last word.

    `order` is where the columns of `values` go; the levels stay as they are coded.
    """
    position = 0
    for scales, kind in ((rows, 0), (columns, 1), (steps, 2)):
        mean, level = scale_models[kind, 0], scale_models[kind, 1]
        position = _get_run(words, position, states, tables, mean, level, scales)
    count, width = values.shape
    trellis_states = labels.shape[0]
    trellis = np.empty(LANES, np.int64)
    tile = np.empty((width, LANES), np.int16)  # written in order of decoding, then transposed
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


def encode(
    values: NDArray[np.int32],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    scale_models: NDArray[np.int16],
    labels: Labels,
) -> tuple[NDArray[np.uint32], Words]:
    """Code a block.

    Args:
        values: int32 `[K, B]`, each row a path of the trellis from state 0.
        rows, columns: int16 `[K]` and `[B]`, levels whose sum selects a weight's table.
        steps: int16 `[B]`.
        scale_models: int16 `[3, 2]`, (mean, level) of the model for rows, columns and steps.
        labels: of the trellis (`trellis.state_labels`).

    Returns:
        The lanes' states, uint32 `[32]`, and the words, uint16, in the decoder's order.
    """
    words = _room_for(values.size + rows.size + columns.size + steps.size)
    states = np.full(LANES, _LOW, np.int64)
    position = _encode(
        values, rows, columns, steps, scale_models, labels, entropy_tables(), states, words
    )
    return states.astype(np.uint32), words[position:].copy()


def decode(
    states: NDArray[np.uint32],
    words: Words,
    scale_models: NDArray[np.int16],
    labels: Labels,
    order: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int16], Levels, Levels, Levels]:
    """The inverse of `encode`.

    Args:
        states, words, scale_models, labels: the coded block.
        order: int64 `[B]`, the column that each column along the trellis goes to.
        shape: (K, B).

    Returns:
        The values, int16 `[K, B]`, columns in their places; the levels of rows, columns and
        steps, in the trellis's order.

    Raises:
        PayloadError: the words are not exactly the coded block.
    """
    rows, columns = np.empty(shape[0], np.int16), np.empty(shape[1], np.int16)
    steps = np.empty(shape[1], np.int16)
    values = np.empty(shape, np.int16)
    running = states.astype(np.int64)
    position = _decode(
        _padded(words), running, scale_models, labels, _flat_tables(), order,
        rows, columns, steps, values,
    )  # fmt: skip
    _check_end(position, words, running)
    return values, rows, columns, steps


def encode_run(values: NDArray[np.int16], level: int) -> tuple[int, Words]:
    """Code integers `[n]` in one lane, as q under a level's table of z = 0.

    Returns:
        The lane's state, and the words in the decoder's order.
    """
    words = _room_for(values.size)
    states = np.full(1, _LOW, np.int64)
    position = _put_run(values, 0, level, entropy_tables(), states, words, words.size)
    return int(states[0]), words[position:].copy()


def decode_run(state: int, words: Words, level: int, count: int) -> NDArray[np.int16]:
    """The inverse of `encode_run`, int16 `[count]`.

    Raises:
        PayloadError: the words are not exactly so many integers.
    """
    values = np.empty(count, np.int16)
    states = np.array([state], np.int64)
    position = _get_run(_padded(words), 0, states, _flat_tables(), 0, level, values)
    _check_end(position, words, states)
    return values


def _room_for(integers: int) -> Words:
    """An integer takes two words at most: its symbol's, and that of its escape or low bits."""
    return np.empty(2 * integers, np.uint16)


def _padded(words: Words) -> Words:
    """With the word that `_refill` reads past the end."""
    return np.append(words, np.uint16(0))


def _flat_tables() -> FlatTables:
    tables = entropy_tables()
    return tables.symbol.reshape(-1), tables.span.reshape(-1), tables.shift


def _check_end(position: int, words: Words, states: States) -> None:
    """All words are read, and every state is back where the encoder began."""
    if position != words.size or not (states == _LOW).all():
        raise PayloadError("entropy-coded words do not end where their integers do")
