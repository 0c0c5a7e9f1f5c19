"""Encode and decode a weight matrix as blocks of log-scales and entropy-coded integers.

weight[k, n] = step * 2 ** (step_levels[n] / resolution) * integers[k, n]. The columns are cut
into blocks (codec/column_blocks.py) that are encoded and decoded independently. These are the bytes
of a matrix (codec `ectcq`, version 2, little-endian):

    step             float32
    trellis states   uint8              8, 16, 32 or 64
    order            uint8              1: sorted; 0: strided, as in version 1
    resolution       uint16             0 (which stands for 8), or 32 for tuned steps
    word counts      uint32 [blocks]
    for each block:
        scale models int16 [3, 2]   (mean, level) of its row, column and step levels
        lane states  uint32 [32]
        words        uint16 [word count]   row, column and step levels, weights (entropy/rans.py)

The levels of columns and steps come in the order of the matrix, or along the trellis if that is
strided.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import log2
from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import column_blocks, sorted_order, strided_order
from rbe_cli.codec.ectcq.error_feedback import quantise
from rbe_cli.codec.ectcq.trellis import (
    DEFAULT_OPTIONS,
    QuantiserOptions,
    state_labels,
)
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.entropy.entropy_model import LARGEST_INT16, LEVELS_PER_OCTAVE, MAX_INTEGER
from rbe_cli.codec.entropy.row_levels import cheapest_row_levels
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.errors import PayloadError
from rbe_cli.weights.trellis_code import PARITY_CHECKS, TrellisBlock

Float32 = NDArray[np.float32]
TUNED_RESOLUTION = 32
_BLOCK_HEADER = 6 * 2 + 4 * rans.LANES
# A lane's state loses at least 0.00033 bits with an integer, and a word adds at most 17.
_MOST_INTEGERS = 1 << 16  # of a word, and of a lane's first state
_LEVEL_BITS = 8  # usually the most bits of a coded log-scale


def side_bits(rows: int, columns: int) -> int:
    """Return about the bits of a matrix's headers and scales, which do not make weights finer."""
    headers = 8 + (4 + _BLOCK_HEADER) * len(column_blocks(columns))
    return 8 * headers + _LEVEL_BITS * (rows + 2 * columns)


@dataclass(frozen=True)
class HybridBlock:
    """An encoded block: all rows of some columns.

    Attributes:
        scale_models: int16 `[3, 2]`, the entropy models of row, column and step levels.
        states: uint32 `[32]`, the decoder's initial lane states.
        words: uint16, the entropy-coded levels and integers.
    """

    scale_models: NDArray[np.int16]
    states: NDArray[np.uint32]
    words: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the block in a file, without its word count."""
        return _BLOCK_HEADER + self.words.nbytes


@dataclass(frozen=True)
class EncodedMatrix:
    """An encoded matrix `[K inputs, N outputs]`, whose weights are integers times steps.

    Attributes:
        shape: (K, N).
        step: the quantisation step of columns whose step level is 0.
        blocks: the blocks, from the first column to the last.
        states: the number of states of the trellis.
        resolution: the number of step levels per octave.
        is_sorted: whether the trellis runs through the columns by ascending levels. Otherwise it
            takes strides, as version 1 of the codec did.
    """

    shape: tuple[int, int]
    step: float
    blocks: tuple[HybridBlock, ...]
    states: int = DEFAULT_OPTIONS.states
    resolution: int = LEVELS_PER_OCTAVE
    is_sorted: bool = True

    @property
    def nbytes(self) -> int:
        """Return the bytes of the matrix in a file."""
        return 8 + sum(4 + block.nbytes for block in self.blocks)

    def to_bytes(self) -> bytes:
        """Return the bytes of the matrix, in the layout that the module describes."""
        resolution = 0 if self.resolution == LEVELS_PER_OCTAVE else self.resolution
        parts = [np.float32(self.step).tobytes()]
        parts.append(bytes([self.states, self.is_sorted]))
        parts.append(np.array(resolution, "<u2").tobytes())
        parts.append(np.array([block.words.size for block in self.blocks], "<u4").tobytes())
        for block in self.blocks:
            parts.append(block.scale_models.astype("<i2").tobytes())
            parts.append(block.states.astype("<u4").tobytes())
            parts.append(block.words.astype("<u2").tobytes())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, shape: tuple[int, int]) -> "EncodedMatrix":
        """Parse the bytes that `to_bytes` writes. Words stay views of `data`.

        Raises:
            PayloadError: the bytes are not a matrix of this shape.
        """
        count = len(column_blocks(shape[1]))
        start = 8 + 4 * count
        if len(data) < start:
            raise PayloadError(f"{len(data)} bytes are too few for a matrix of {count} blocks")
        step = float(np.frombuffer(data, "<f4", 1)[0])
        if not (np.isfinite(step) and step > 0.0):
            raise PayloadError(f"a matrix's step is {step}")
        states, order = data[4], data[5]
        resolution = int(np.frombuffer(data, "<u2", 1, 6)[0])
        words = [int(n) for n in np.frombuffer(data, "<u4", count, 8)]
        if states not in PARITY_CHECKS:
            raise PayloadError(f"a matrix's trellis has {states} states")
        if order not in (0, 1):
            raise PayloadError(f"a matrix's columns have the order {order}")
        if resolution not in (0, TUNED_RESOLUTION):
            raise PayloadError(f"a matrix's steps have {resolution} levels an octave")
        if len(data) != start + count * _BLOCK_HEADER + 2 * sum(words):
            raise PayloadError("a matrix's blocks do not fill its bytes")
        _check_room(words, shape)
        blocks = []
        for size in words:
            models = np.frombuffer(data, "<i2", 6, start).reshape(3, 2)
            lanes = np.frombuffer(data, "<u4", rans.LANES, start + 12)
            coded = np.frombuffer(data, "<u2", size, start + _BLOCK_HEADER)
            blocks.append(HybridBlock(models, lanes, coded))
            start += _BLOCK_HEADER + 2 * size
        resolution = resolution or LEVELS_PER_OCTAVE
        return cls(shape, step, tuple(blocks), states, resolution, bool(order))

    def decode_block(self, index: int) -> tuple[NDArray[np.int16], Float32]:
        """Decode one block to integers, int16 `[K, B]`, and steps of columns, float32 `[B]`.

        It raises as `block_along_trellis`.
        """
        block = self.block_along_trellis(index)
        integers, steps = np.empty_like(block.integers), np.empty_like(block.steps)
        integers[:, block.order], steps[block.order] = block.integers, block.steps
        return integers, steps

    def decoded_blocks(self) -> Iterator[tuple[slice, NDArray[np.int16], Float32]]:
        """Yield (columns, integers, steps) of each block, in order."""
        for index, columns in enumerate(column_blocks(self.shape[1])):
            yield columns, *self.decode_block(index)

    def block_along_trellis(self, index: int) -> TrellisBlock:
        """Decode one block, and leave its columns in the order of the trellis.

        Raises:
            PayloadError: the words do not end with the block, or a step is not finite.
        """
        reader, order = self.open_block(index)
        integers = reader.integers(self.along_trellis(reader.columns, order))
        steps = self.steps_of(self.along_trellis(reader.steps, order))
        return TrellisBlock(column_blocks(self.shape[1])[index], order, integers, steps)

    def steps_of(self, levels: scales.Levels) -> Float32:
        """Return the steps of some columns from their levels.

        Raises:
            PayloadError: a step times the largest integer of int16 is not finite.
        """
        with np.errstate(over="ignore"):
            steps = scales.steps(self.step, levels, self.resolution)
            largest = steps * np.float32(LARGEST_INT16)
        if not np.isfinite(largest).all():
            raise PayloadError("a matrix's steps are too large")
        return steps

    def blocks_along_trellis(self) -> Iterator[TrellisBlock]:
        """Yield each block from the first column to the last, as `block_along_trellis`."""
        for index in range(len(self.blocks)):
            yield self.block_along_trellis(index)

    def rescaled(self, factors: Float32) -> "EncodedMatrix":
        """Return the same integers with each column's step times a factor above 0.

        Args:
            factors: float32 `[N]`.
        """
        blocks = []
        for index, columns in enumerate(column_blocks(self.shape[1])):
            reader, order = self.open_block(index)
            along = self.along_trellis(reader.columns, order)
            own = factors[columns] if self.is_sorted else factors[columns][order]
            steps = scales.steps(self.step, reader.steps, self.resolution)
            octaves = log2(steps * own / np.float32(self.step))
            levels = reader.rows, reader.columns, np.rint(TUNED_RESOLUTION * octaves)
            integers = reader.integers(along).astype(np.int32)
            blocks.append(_code(integers, along, levels, self.states))
        return replace(self, blocks=tuple(blocks), resolution=TUNED_RESOLUTION)

    def open_block(self, index: int) -> tuple[rans.BlockReader, NDArray[np.int64]]:
        """Decode the levels of a block, and return its reader and the order of its columns."""
        columns, block = column_blocks(self.shape[1])[index], self.blocks[index]
        reader = rans.BlockReader(
            block.states, block.words, block.scale_models, state_labels(self.states),
            (self.shape[0], columns.stop - columns.start),
        )  # fmt: skip
        levels = reader.columns
        return reader, sorted_order(levels) if self.is_sorted else strided_order(levels.size)

    def along_trellis(self, levels: scales.Levels, order: NDArray[np.int64]) -> scales.Levels:
        """Return the levels of columns, which are as a block holds them, along the trellis."""
        return levels[order] if self.is_sorted else levels

    def decode(self) -> Float32:
        """Return the whole matrix, float32 `[K, N]`."""
        out = np.empty(self.shape, np.float32)
        for columns, integers, steps in self.decoded_blocks():
            np.multiply(integers, steps, out=out[:, columns])
        return out


def _check_room(words: Sequence[int], shape: tuple[int, int]) -> None:
    """Raise `PayloadError` if a block has more integers than its words can code.

    So the memory for a matrix is bounded by its bytes before any is taken.
    """
    for size, columns in zip(words, column_blocks(shape[1]), strict=True):
        width = columns.stop - columns.start
        if shape[0] * width + shape[0] + 2 * width > _MOST_INTEGERS * (size + rans.LANES):
            raise PayloadError(f"{size} words are too few for a block of {shape[0]} x {width}")


def encode_block(
    weights: Float32,
    step: float,
    inputs: InputFactor,
    outputs: OutputFactor,
    unit: float = 1.0,
    options: QuantiserOptions = DEFAULT_OPTIONS,
) -> HybridBlock:
    """Quantise and code the weights of one block.

    Args:
        weights: float32 `[K, B]`, columns in the order of the matrix.
        step: the quantisation step of columns whose C (`OutputFactor.diagonal`) is `unit`.
        inputs, outputs: the cost of errors.
        unit: see `step`.
        options: the options of the trellis. Its number of states is stored in the
            `EncodedMatrix`.
    """
    least, most = scales.step_level_bounds(weights, step)
    steps = np.clip(scales.step_levels(outputs.diagonal, unit), least, most)
    if options.max_integer < MAX_INTEGER:
        steps = np.maximum(steps, scales.least_step_levels(weights, step, options.max_integer))
    columns = outputs.levels
    if not columns.size:
        columns = scales.column_levels(weights / scales.steps(step, steps))
    order = sorted_order(columns)
    along = columns[order]
    integers = quantise(weights[:, order], along, steps[order], step, inputs, outputs, options)
    rows = cheapest_row_levels(integers, along, scales.row_levels(integers, along))
    levels = rows, columns, steps
    return _code(integers, along, levels, options.states)


def _code(
    integers: NDArray[np.int32],
    along: scales.Levels,
    levels: tuple[NDArray[np.number], ...],
    states: int,
) -> HybridBlock:
    """Code a block.

    Args:
        integers: int32 `[K, B]`, columns along the trellis.
        along: int16 `[B]`, the levels of the columns along the trellis.
        levels: the levels of rows, columns and steps, as the block will hold them.
        states: of the trellis.
    """
    rows, columns, steps = (own.astype(np.int16) for own in levels)
    models = np.array([scales.scale_model(own) for own in (rows, columns, steps)], np.int16)
    lanes, words = rans.encode(integers, along, rows, columns, steps, models, state_labels(states))
    return HybridBlock(models, lanes, words)
