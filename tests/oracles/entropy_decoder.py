"""The decoders of the codecs `ectcq` and `coded` in plain Python.

They are slow and easy to check, and the tests hold the compiled decoders to them. From the package
they take the parsed fields of a matrix, the order of its columns and the frequencies of
codec/entropy/entropy_model.py, nothing else.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import column_blocks, sorted_order, strided_order
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock
from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    MAX_LEVEL,
    MIN_LEVEL,
    PROBABILITY_BITS,
    SYMBOL_OFFSET,
    entropy_tables,
    level_shift,
)
from rbe_cli.errors import PayloadError

LANES = 32
# Number of states -> Ungerboeck's h0 and h1, as the sets of their powers.
_POLYNOMIALS = {
    8: ({0, 1, 3}, {2}),
    16: ({0, 1, 4}, {2}),
    32: ({0, 2, 5}, {3}),
    64: ({0, 1, 6}, {2, 4}),
}


def _parity(register: int, powers: set[int]) -> int:
    return sum(register >> power & 1 for power in powers) % 2


def state_offset(state: int, states: int) -> int:
    """Return z of a trellis state."""
    return _parity(2 * state, _POLYNOMIALS[states][1])


def next_state(state: int, q: int, states: int) -> int:
    """Return the trellis state after q."""
    u = (q + _parity(2 * state, _POLYNOMIALS[states][0])) % 2
    return (2 * state + u) % states


class _Lanes:
    """rANS decoders, each with a state of its own, that read one stream of words."""

    def __init__(self, states: NDArray[np.uint32], words: NDArray[np.uint16]) -> None:
        self._states: list[int] = states.tolist()
        self._words: list[int] = words.tolist()[::-1]  # the next one last

    def _remove(self, lane: int, total: int, frequency: int, start: int) -> None:
        """Take out of a lane's state the symbol that owns slots [start, start + frequency)."""
        quotient, slot = divmod(self._states[lane], total)
        state = frequency * quotient + slot - start
        if state < 2**16:
            if not self._words:
                raise PayloadError("the words end before the integers do")
            state = 2**16 * state + self._words.pop()
        self._states[lane] = state

    def _uniform(self, lane: int, bits: int) -> int:
        """Decode a value that is coded as it is."""
        value = self._states[lane] % 2**bits
        self._remove(lane, 2**bits, 1, value)
        return value

    def integer(self, lane: int, level: int, z: int) -> int:
        """Decode q, which is coded under a level's table."""
        level = min(max(level, MIN_LEVEL), MAX_LEVEL)
        frequencies: list[int] = entropy_tables().frequency[level - MIN_LEVEL, z].tolist()
        total, symbol, start = 2**PROBABILITY_BITS, 0, 0
        while self._states[lane] % total >= start + frequencies[symbol]:
            start += frequencies[symbol]
            symbol += 1
        self._remove(lane, total, frequencies[symbol], start)
        if symbol == ESCAPE:
            return self._uniform(lane, ESCAPE_BITS) - 2 ** (ESCAPE_BITS - 1)
        high, low_bits = symbol - SYMBOL_OFFSET, level_shift(level)
        return high * 2**low_bits + self._uniform(lane, low_bits) if low_bits else high

    def close(self) -> None:
        """Check that every state is back where the encoder began, and that no word is left."""
        if self._words or any(state != 2**16 for state in self._states):
            raise PayloadError("the words do not end where the integers do")


def decode_block(
    block: HybridBlock, shape: tuple[int, int], states: int, *, is_sorted: bool = False
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return a block's integers, int16 `[K, B]`, and the levels of its steps, int16 `[B]`.

    Args:
        block: a block of a matrix.
        shape: the pair (K, B).
        states: the number of states of the trellis.
        is_sorted: whether the order of the columns follows from their levels.

    Raises:
        PayloadError: the words are not exactly the block.
    """
    rows, columns = shape
    lanes = _Lanes(block.states, block.words)
    row_levels, column_levels, step_levels = (
        [mean + lanes.integer(i % LANES, model, 0) for i in range(count)]
        for count, (mean, model) in zip(
            (rows, columns, columns), block.scale_models.tolist(), strict=True
        )
    )
    order = strided_order(columns).tolist()
    if is_sorted:
        order = sorted_order(np.array(column_levels).astype(np.int16)).tolist()
        column_levels = [column_levels[place] for place in order]
    integers = np.empty(shape, np.int64)
    for first in range(0, rows, LANES):
        trellis = [0] * LANES
        for j in range(columns):
            for i in range(first, min(first + LANES, rows)):
                lane = i - first
                z = state_offset(trellis[lane], states)
                q = lanes.integer(lane, row_levels[i] + column_levels[j], z)
                integers[i, order[j]] = 2 * q + z
                trellis[lane] = next_state(trellis[lane], q, states)
    lanes.close()
    natural = np.empty(columns, np.int64)
    natural[slice(None) if is_sorted else order] = step_levels
    return integers.astype(np.int16), natural.astype(np.int16)


def decode_vector(data: bytes, count: int) -> NDArray[np.float32]:
    """Return a vector of the codec `coded`, whose offset and step are sound, float32 `[count]`.

    Raises:
        PayloadError: the words are not exactly so many integers.
    """
    offset, step, level, state = struct.unpack_from("<ffhI", data)
    lanes = _Lanes(np.array([state]), np.frombuffer(data[14:], "<u2"))
    integers = [lanes.integer(0, level, 0) for _ in range(count)]
    lanes.close()
    return np.array([offset + step * n for n in integers]).astype(np.float32)


def decode_integers(
    matrix: EncodedMatrix,
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Return the integers, int16 `[K, N]`, and the steps of the columns, float32 `[N]`.

    A step may be infinite, where the compiled decoder refuses the file.

    Raises:
        PayloadError: as `decode_block`.
    """
    rows, columns = matrix.shape
    widths = [part.stop - part.start for part in column_blocks(columns)]
    parts = [
        decode_block(block, (rows, width), matrix.states, is_sorted=matrix.is_sorted)
        for block, width in zip(matrix.blocks, widths, strict=True)
    ]
    levels = np.concatenate([levels for _, levels in parts])
    with np.errstate(over="ignore"):
        powers = np.exp2(levels.astype(np.float64) / matrix.resolution).astype(np.float32)
        steps = np.float32(matrix.step) * powers
    return np.hstack([integers for integers, _ in parts]), steps


def decode(matrix: EncodedMatrix) -> NDArray[np.float32]:
    """Return the whole matrix as float32 `[K, N]`.

    Raises:
        PayloadError: as `decode_block`.
    """
    integers, steps = decode_integers(matrix)
    return integers * steps
