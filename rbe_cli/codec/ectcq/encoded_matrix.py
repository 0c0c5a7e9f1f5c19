"""Encode and decode a weight matrix as blocks of log-scales and entropy-coded integers.

weight[k, n] = step * 2 ** (step_levels[n] / resolution) * integers[k, n]. The columns are cut
into blocks (codec/column_blocks.py) that are encoded and decoded independently. These are the bytes
of a matrix (codec `ectcq`, version 1, little-endian):

    step             float32
    trellis states   uint16             8, 16, 32 or 64
    resolution       uint16             0 (which stands for 8), or 32 for tuned steps
    word counts      uint32 [blocks]
    for each block:
        scale models int16 [3, 2]   (mean, level) of its row, column and step levels
        lane states  uint32 [32]
        words        uint16 [word count]   row, column and step levels, weights (entropy/rans.py)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import column_blocks, trellis_order
from rbe_cli.codec.ectcq import scales
from rbe_cli.codec.ectcq.error_feedback import quantise
from rbe_cli.codec.ectcq.trellis import (
    DEFAULT_OPTIONS,
    QuantiserOptions,
    state_labels,
)
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE, MAX_INTEGER
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.errors import PayloadError
from rbe_cli.weights.trellis_code import PARITY_CHECKS, TrellisBlock

Float32 = NDArray[np.float32]
TUNED_RESOLUTION = 32
_BLOCK_HEADER = 6 * 2 + 4 * rans.LANES
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
    """

    shape: tuple[int, int]
    step: float
    blocks: tuple[HybridBlock, ...]
    states: int = DEFAULT_OPTIONS.states
    resolution: int = LEVELS_PER_OCTAVE

    @property
    def nbytes(self) -> int:
        """Return the bytes of the matrix in a file."""
        return 8 + sum(4 + block.nbytes for block in self.blocks)

    def to_bytes(self) -> bytes:
        """Return the bytes of the matrix, in the layout that the module describes."""
        resolution = 0 if self.resolution == LEVELS_PER_OCTAVE else self.resolution
        parts = [np.float32(self.step).tobytes()]
        parts.append(np.array([self.states, resolution], "<u2").tobytes())
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
        states, resolution = (int(n) for n in np.frombuffer(data, "<u2", 2, 4))
        words = [int(n) for n in np.frombuffer(data, "<u4", count, 8)]
        if states not in PARITY_CHECKS:
            raise PayloadError(f"a matrix's trellis has {states} states")
        if resolution not in (0, TUNED_RESOLUTION):
            raise PayloadError(f"a matrix's steps have {resolution} levels an octave")
        if len(data) != start + count * _BLOCK_HEADER + 2 * sum(words):
            raise PayloadError("a matrix's blocks do not fill its bytes")
        blocks = []
        for size in words:
            models = np.frombuffer(data, "<i2", 6, start).reshape(3, 2)
            lanes = np.frombuffer(data, "<u4", rans.LANES, start + 12)
            coded = np.frombuffer(data, "<u2", size, start + _BLOCK_HEADER)
            blocks.append(HybridBlock(models, lanes, coded))
            start += _BLOCK_HEADER + 2 * size
        return cls(shape, step, tuple(blocks), states, resolution or LEVELS_PER_OCTAVE)

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
        columns = column_blocks(self.shape[1])[index]
        block = self.blocks[index]
        width = columns.stop - columns.start
        integers, _, _, levels = rans.decode(
            block.states, block.words, block.scale_models, state_labels(self.states),
            (self.shape[0], width),
        )  # fmt: skip
        with np.errstate(over="ignore"):
            steps = scales.steps(self.step, levels, self.resolution)
            largest = steps * np.float32(MAX_INTEGER)
        if not np.isfinite(largest).all():
            raise PayloadError("a matrix's steps are too large")
        return TrellisBlock(columns, trellis_order(width), integers, steps)

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
        for columns, order, integers, steps in self.blocks_along_trellis():
            octaves = np.log2(steps * factors[columns][order] / np.float32(self.step))
            levels = np.rint(TUNED_RESOLUTION * octaves).astype(np.int16)
            blocks.append(_code(integers.astype(np.int32), levels, self.states))
        return EncodedMatrix(self.shape, self.step, tuple(blocks), self.states, TUNED_RESOLUTION)

    def decode(self) -> Float32:
        """Return the whole matrix, float32 `[K, N]`."""
        out = np.empty(self.shape, np.float32)
        for columns, integers, steps in self.decoded_blocks():
            np.multiply(integers, steps, out=out[:, columns])
        return out


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
    ordered = weights[:, trellis_order(weights.shape[1])]
    least, most = scales.step_level_bounds(ordered, step)
    steps = np.clip(scales.step_levels(outputs.diagonal, unit), least, most)
    if options.max_integer < MAX_INTEGER:
        steps = np.maximum(steps, scales.least_step_levels(ordered, step, options.max_integer))
    integers = quantise(ordered, steps, step, inputs, outputs, options)
    return _code(integers, steps, options.states)


def _code(integers: NDArray[np.int32], steps: scales.Levels, states: int) -> HybridBlock:
    """Code integers `[K, B]` and step levels `[B]`, whose columns are in the trellis's order."""
    rows, columns = scales.integer_levels(integers)
    models = np.array([scales.scale_model(levels) for levels in (rows, columns, steps)], np.int16)
    lanes, words = rans.encode(integers, rows, columns, steps, models, state_labels(states))
    return HybridBlock(models, lanes, words)
