"""A weight matrix as hybrid-encoded blocks: log-scales and entropy-coded integers.

weight[k, n] = step * 2 ** (step_levels[n] / 8) * integers[k, n]. The columns are cut into
blocks (codec/geometry.py) that encode and decode independently of each other. The bytes
of a matrix (codec `ectcq`, version 1, little-endian):

    step             float32
    trellis states   uint32             8, 16, 32 or 64
    word counts      uint32 [blocks]
    for each block:
        scale models int16 [3, 2]   (mean, level) of its row, column and step levels
        lane states  uint32 [32]
        words        uint16 [word count]   row, column and step levels, weights (codec/rans.py)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec import rans, scales
from rbe_cli.codec.entropy_model import MAX_INTEGER
from rbe_cli.codec.feedback import InputFactor, OutputFactor, quantise
from rbe_cli.codec.geometry import column_blocks, trellis_order
from rbe_cli.codec.trellis import DEFAULT_OPTIONS, PARITY_CHECKS, QuantiserOptions, state_labels
from rbe_cli.errors import PayloadError

Float32 = NDArray[np.float32]
_BLOCK_HEADER = 6 * 2 + 4 * rans.LANES


@dataclass(frozen=True)
class HybridBlock:
    """All rows of some columns.

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
        return _BLOCK_HEADER + self.words.nbytes


@dataclass(frozen=True)
class EncodedMatrix:
    """A matrix `[K inputs, N outputs]` of integers times steps, as hybrid blocks.

    Attributes:
        shape: (K, N).
        step: of the columns whose step level is 0.
        blocks: from the first column to the last.
        states: of the trellis that the integers follow.
    """

    shape: tuple[int, int]
    step: float
    blocks: tuple[HybridBlock, ...]
    states: int = DEFAULT_OPTIONS.states

    @property
    def nbytes(self) -> int:
        return 8 + sum(4 + block.nbytes for block in self.blocks)

    def to_bytes(self) -> bytes:
        """The layout of the module's docstring."""
        parts = [np.float32(self.step).tobytes(), np.uint32(self.states).tobytes()]
        parts.append(np.array([block.words.size for block in self.blocks], "<u4").tobytes())
        for block in self.blocks:
            parts.append(block.scale_models.astype("<i2").tobytes())
            parts.append(block.states.astype("<u4").tobytes())
            parts.append(block.words.astype("<u2").tobytes())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, shape: tuple[int, int]) -> "EncodedMatrix":
        """The inverse of `to_bytes`; words stay views of `data`.

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
        states, *words = (int(n) for n in np.frombuffer(data, "<u4", 1 + count, 4))
        if states not in PARITY_CHECKS:
            raise PayloadError(f"a matrix's trellis has {states} states")
        if len(data) != start + count * _BLOCK_HEADER + 2 * sum(words):
            raise PayloadError("a matrix's blocks do not fill its bytes")
        blocks = []
        for size in words:
            models = np.frombuffer(data, "<i2", 6, start).reshape(3, 2)
            lanes = np.frombuffer(data, "<u4", rans.LANES, start + 12)
            coded = np.frombuffer(data, "<u2", size, start + _BLOCK_HEADER)
            blocks.append(HybridBlock(models, lanes, coded))
            start += _BLOCK_HEADER + 2 * size
        return cls(shape, step, tuple(blocks), states)

    def decode_block(self, index: int) -> tuple[NDArray[np.int16], Float32]:
        """Integers of one block, int16 `[K, B]`, and the steps of its columns, float32 `[B]`.

        Raises:
            PayloadError: the words are not exactly the block, or a step is not a number.
        """
        columns = column_blocks(self.shape[1])[index]
        block = self.blocks[index]
        order = trellis_order(columns.stop - columns.start)
        integers, _, _, levels = rans.decode(
            block.states, block.words, block.scale_models, state_labels(self.states),
            order, (self.shape[0], order.size),
        )  # fmt: skip
        steps = np.empty(order.size, np.float32)
        with np.errstate(over="ignore"):
            steps[order] = scales.steps(self.step, levels)
            largest = steps * np.float32(MAX_INTEGER)
        if not np.isfinite(largest).all():
            raise PayloadError("a matrix's steps are too large")
        return integers, steps

    def decoded_blocks(self) -> Iterator[tuple[slice, NDArray[np.int16], Float32]]:
        """(columns, integers, steps) of each block in turn."""
        for index, columns in enumerate(column_blocks(self.shape[1])):
            yield columns, *self.decode_block(index)

    def decode(self) -> Float32:
        """The whole matrix as float32 `[K, N]`."""
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
    """Quantise and code the weights of one block, float32 `[K, B]`.

    Args:
        weights: columns in their places.
        step: of the columns whose C is `unit`.
        inputs, outputs: what an error costs.
        unit: see `step`.
        options: of the trellis; its number of states goes into the `EncodedMatrix`.
    """
    ordered = weights[:, trellis_order(weights.shape[1])]
    steps = scales.step_levels(outputs.diagonal, unit)
    if options.max_integer < MAX_INTEGER:
        steps = np.maximum(steps, scales.least_step_levels(ordered, step, options.max_integer))
    integers = quantise(ordered, steps, step, inputs, outputs, options)
    rows, columns = scales.integer_levels(integers)
    models = np.array([scales.scale_model(levels) for levels in (rows, columns, steps)], np.int16)
    states, words = rans.encode(
        integers, rows, columns, steps, models, state_labels(options.states)
    )
    return HybridBlock(models, states, words)
