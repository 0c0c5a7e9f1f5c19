"""Code a block of trellis integers with interleaved rANS (Duda 2013; Giesen 2014).

32 lanes code 32 rows in parallel, column by column. Each lane has its own 32-bit state and trellis
state. All lanes share one stream of 16-bit words, which is read in the order of the lanes, so that
a decoder can hold the lanes in vector registers. The stream contains the levels of the block's
rows, of its columns and of their steps, and then the weights. Thus the final states are stored only
once for all of them. Columns are in the order of the trellis. The integers of a vector are coded by
a single lane (codec/vectors/coded_vector.py).
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import Labels, entropy_tables
from rbe_cli.errors import PayloadError
from rbe_cli.runtime.libraries import RANS_DECODE, RANS_ENCODE, RANS_GET_RUN, RANS_PUT_RUN
from rbe_cli.runtime.native import load

Words = NDArray[np.uint16]
States = NDArray[np.int64]
Levels = NDArray[np.int16]
EncoderTables = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]
"""The fields frequency, cumulative and shift of `EntropyTables`."""
DecoderTables = tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64]]
"""The fields symbol, span and shift of `EntropyTables`, flattened to compute one index only."""

LANES = 32
LOW = 1 << 16  # between symbols, a state lies in [LOW, 2 ** 32)


def encode(
    values: NDArray[np.int32],
    rows: Levels,
    columns: Levels,
    steps: Levels,
    scale_models: NDArray[np.int16],
    labels: Labels,
) -> tuple[NDArray[np.uint32], Words]:
    """Encode a block.

    Args:
        values: int32 `[K, B]`. Each row is a path of the trellis from state 0.
        rows, columns: int16 `[K]` and `[B]`, levels whose sum selects the table of a weight.
        steps: int16 `[B]`, the levels of the columns' steps.
        scale_models: int16 `[3, 2]`, (mean, level) of the model for rows, columns and steps.
        labels: the labels of the trellis (`trellis.state_labels`).

    Returns:
        The final states of the lanes, uint32 `[32]`, and the words, uint16, in the order in which
        the decoder reads them.
    """
    words = _room_for(values.size + rows.size + columns.size + steps.size)
    states = np.full(LANES, LOW, np.int64)
    offsets = np.empty((LANES, values.shape[1]), np.uint8)
    (encode_block,) = load([RANS_ENCODE])
    position = encode_block(
        values, rows, columns, steps, scale_models, labels, *_encoder_tables(),
        states, offsets, words,
    )  # fmt: skip
    return states.astype(np.uint32), words[position:].copy()


def decode(
    states: NDArray[np.uint32],
    words: Words,
    scale_models: NDArray[np.int16],
    labels: Labels,
    order: NDArray[np.int64],
    shape: tuple[int, int],
) -> tuple[NDArray[np.int16], Levels, Levels, Levels]:
    """Decode a block that `encode` wrote.

    Args:
        states, words, scale_models, labels: the coded block.
        order: int64 `[B]`, the place of each column of the trellis in the matrix.
        shape: (K, B).

    Returns:
        The values, int16 `[K, B]`, with columns in the order of the matrix. The levels of rows,
        columns and steps, int16, in the order of the trellis.

    Raises:
        PayloadError: the words do not end with the block.
    """
    rows, columns = np.empty(shape[0], np.int16), np.empty(shape[1], np.int16)
    steps = np.empty(shape[1], np.int16)
    values = np.empty(shape, np.int16)
    running = states.astype(np.int64)
    trellis, tile = np.empty(LANES, np.int64), np.empty((shape[1], LANES), np.int16)
    (decode_block,) = load([RANS_DECODE])
    position = decode_block(
        _padded(words), running, scale_models, labels, *_decoder_tables(), order,
        rows, columns, steps, trellis, tile, values,
    )  # fmt: skip
    _check_end(position, words, running)
    return values, rows, columns, steps


def encode_run(values: NDArray[np.int16], level: int) -> tuple[int, Words]:
    """Encode integers `[n]` with one lane, as q with a level's table for z = 0.

    Returns:
        The final state of the lane, and the words in the order in which the decoder reads them.
    """
    words = _room_for(values.size)
    states = np.full(1, LOW, np.int64)
    (put_run,) = load([RANS_PUT_RUN])
    position = put_run(values, 0, level, *_encoder_tables(), states, words, words.size)
    return int(states[0]), words[position:].copy()


def decode_run(state: int, words: Words, level: int, count: int) -> NDArray[np.int16]:
    """Decode the integers that `encode_run` wrote, int16 `[count]`.

    Raises:
        PayloadError: the words do not end with the integers.
    """
    values = np.empty(count, np.int16)
    states = np.array([state], np.int64)
    (get_run,) = load([RANS_GET_RUN])
    position = get_run(_padded(words), 0, states, *_decoder_tables(), 0, level, values)
    _check_end(position, words, states)
    return values


def _room_for(integers: int) -> Words:
    """Return room for the words. An integer takes at most two: its symbol, and its other bits."""
    return np.empty(2 * integers, np.uint16)


def _padded(words: Words) -> Words:
    """Return the words with one more, which `_refill` reads after the end."""
    return np.append(words, np.uint16(0))


def _encoder_tables() -> EncoderTables:
    tables = entropy_tables()
    return tables.frequency, tables.cumulative, tables.shift


def _decoder_tables() -> DecoderTables:
    tables = entropy_tables()
    return tables.symbol.reshape(-1), tables.span.reshape(-1), tables.shift


def _check_end(position: int, words: Words, states: States) -> None:
    """Raise `PayloadError` unless all words are read and every state is the encoder's first."""
    if position != words.size or not (states == LOW).all():
        raise PayloadError("entropy-coded words do not end where their integers do")
