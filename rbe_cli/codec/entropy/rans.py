"""Code a block of trellis integers with interleaved rANS (Duda 2013; Giesen 2014).

32 lanes code 32 rows in parallel, column by column. Each lane has its own 32-bit state and trellis
state. All lanes share one stream of 16-bit words, which is read in the order of the lanes, so that
a decoder can hold the lanes in vector registers. The stream contains the levels of the block's
rows, of its columns and of their steps, and then the weights. Thus the final states are stored only
once for all of them. The order of the columns may follow from their levels, so that a decoder reads
the levels first. The integers of a vector are coded by a single lane
(codec/vectors/coded_vector.py).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import Labels, entropy_tables
from rbe_cli.errors import PayloadError
from rbe_cli.runtime.libraries import (
    RANS_DECODE,
    RANS_DECODE_LEVELS,
    RANS_ENCODE,
    RANS_GET_RUN,
    RANS_PUT_RUN,
)
from rbe_cli.runtime.native import load

Words = NDArray[np.uint16]
States = NDArray[np.int64]
Levels = NDArray[np.int16]
EncoderTables = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]
"""The fields frequency, cumulative and shift of `EntropyTables`."""

LANES = 32
HISTORY = 8
"""Columns before a block's first one, whose bits are 0: no tap is further away."""
LOW = 1 << 16  # between symbols, a state lies in [LOW, 2 ** 32)


def encode(
    values: NDArray[np.int32],
    along: Levels,
    rows: Levels,
    columns: Levels,
    steps: Levels,
    scale_models: NDArray[np.int16],
    labels: Labels,
) -> tuple[NDArray[np.uint32], Words]:
    """Encode a block.

    Args:
        values: int32 `[K, B]`. Each row is a path of the trellis from state 0.
        along: int16 `[B]`, the levels of the columns in the order of the trellis. The sum of the
            levels of row and column selects the table of a weight.
        rows, columns, steps: int16 `[K]`, `[B]` and `[B]`, the levels that come before the values.
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
        values, along, rows, columns, steps, scale_models, labels, *_encoder_tables(),
        states, offsets, words,
    )  # fmt: skip
    return states.astype(np.uint32), words[position:].copy()


class BlockReader:
    """Decodes a block that `encode` wrote: its levels at once, then its integers.

    Attributes:
        rows, columns, steps: int16 `[K]`, `[B]` and `[B]`, the levels that come first.
        words: those of the block, or a single one if there are none.
        states: uint32 `[32]`, the states of the lanes after what was decoded.
        taps: int64 `[6]` (`rans_decoder.LaneSource`).
        position: that of the next word.
    """

    def __init__(
        self,
        states: NDArray[np.uint32],
        words: Words,
        scale_models: NDArray[np.int16],
        labels: Labels,
        shape: tuple[int, int],
    ) -> None:
        """Decode the levels of a block of the shape (K, B). The others are those of `encode`."""
        self.rows, self.columns = np.empty(shape[0], np.int16), np.empty(shape[1], np.int16)
        self.steps = np.empty(shape[1], np.int16)
        self._size, self.states = words.size, states.copy()
        self._source = _source(self.states, words, _taps(labels))
        self.words, self.taps = self._source[0], self._source[3]
        (decode_levels,) = load([RANS_DECODE_LEVELS])
        self.position = decode_levels(
            *self._source, scale_models, self.rows, self.columns, self.steps
        )

    def integers(self, along: Levels) -> NDArray[np.int16]:
        """Decode the integers, int16 `[K, B]`, in the order of the trellis. Call it once.

        Args:
            along: int16 `[B]`, the levels of the columns in the order of the trellis.

        Raises:
            PayloadError: the words do not end with the block.
        """
        width = along.size
        values = np.empty((self.rows.size, width), np.int16)
        bits, tile = np.zeros(HISTORY + width, np.uint32), np.empty(width * LANES, np.int16)
        (decode_block,) = load([RANS_DECODE])
        position = decode_block(*self._source, self.position, self.rows, along, bits, tile, values)
        _check_end(position, self._size, self.states)
        return values


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
    running, no_taps = np.array([state], np.uint32), np.zeros(6, np.int64)
    (get_run,) = load([RANS_GET_RUN])
    position = get_run(*_source(running, words, no_taps), 0, level, values)
    _check_end(position, words.size, running)
    return values


def _room_for(integers: int) -> Words:
    """Return room for the words. An integer takes at most two: its symbol, and its other bits."""
    return np.empty(2 * integers, np.uint16)


def _encoder_tables() -> EncoderTables:
    tables = entropy_tables()
    return tables.frequency, tables.cumulative, tables.shift


def _source(
    states: NDArray[np.uint32], words: Words, taps: NDArray[np.int64]
) -> tuple[NDArray[Any], ...]:
    """Return the fields of `rans_decoder.LaneSource`. The states change while it is decoded."""
    readable = words if words.size else np.zeros(1, np.uint16)
    return readable, states, entropy_tables().slots.reshape(-1), taps


def _taps(labels: Labels) -> NDArray[np.int64]:
    """Return which bits u give z and the lowest bit of q, as `rans_decoder.LaneSource` has them.

    The label of a state is an exclusive or of those of its bits, which are the last u.
    """
    found = []
    for bit in (2, 1):
        own = [k + 1 for k in range(labels.size.bit_length() - 1) if labels[1 << k] & bit]
        found.append([own[0], own[-1], -1 if len(own) == 2 else 0])
    return np.array(found, np.int64).reshape(-1)


def _check_end(position: int, size: int, states: NDArray[np.uint32]) -> None:
    """Raise `PayloadError` unless all words are read and every state is the encoder's first."""
    if position != size or not (states == LOW).all():
        raise PayloadError("entropy-coded words do not end where their integers do")
