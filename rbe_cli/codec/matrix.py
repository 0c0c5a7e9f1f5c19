"""A weight matrix as hybrid-encoded blocks: log-scales and entropy-coded integers.

weight[k, n] = step * integers[k, n]. The columns are cut into blocks that encode and
decode independently of each other; `column_blocks` is the one place that says where.
The bytes of a matrix (codec `ectcq`, version 1, little-endian):

    step             float32
    word counts      uint32 [blocks]
    for each block:
        scale models int16 [2, 2]   (mean, level) of its row levels, then of its column levels
        lane states  uint32 [32]
        words        uint16 [word count]   row levels, column levels, weights (codec/rans.py)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec import rans, scales
from rbe_cli.codec.feedback import Feedback, quantise
from rbe_cli.errors import PayloadError

Float32 = NDArray[np.float32]
MAX_COLUMNS = 1024  # of a block
_BLOCK_HEADER = 4 * 2 + 4 * rans.LANES


def column_blocks(columns: int) -> list[slice]:
    """The fewest blocks of at most `MAX_COLUMNS` columns, their widths equal within one."""
    count = -(-columns // MAX_COLUMNS)
    return [slice(i * columns // count, (i + 1) * columns // count) for i in range(count)]


@dataclass(frozen=True)
class HybridBlock:
    """All rows of some columns.

    Attributes:
        scale_models: int16 `[2, 2]`, the entropy model of the row and of the column levels.
        states: uint32 `[32]`, the decoder's initial lane states.
        words: uint16, the entropy-coded row levels, column levels and integers.
    """

    scale_models: NDArray[np.int16]
    states: NDArray[np.uint32]
    words: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        return _BLOCK_HEADER + self.words.nbytes


@dataclass(frozen=True)
class EncodedMatrix:
    """A matrix `[K inputs, N outputs]` of integers times one step, as hybrid blocks."""

    shape: tuple[int, int]
    step: float
    blocks: tuple[HybridBlock, ...]

    @property
    def nbytes(self) -> int:
        return 4 + sum(4 + block.nbytes for block in self.blocks)

    def to_bytes(self) -> bytes:
        """The layout of the module's docstring."""
        parts = [np.float32(self.step).tobytes()]
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
        start = 4 + 4 * count
        if len(data) < start:
            raise PayloadError(f"{len(data)} bytes are too few for a matrix of {count} blocks")
        step = float(np.frombuffer(data, "<f4", 1)[0])
        if not (np.isfinite(step) and step > 0.0):
            raise PayloadError(f"a matrix's step is {step}")
        words = [int(n) for n in np.frombuffer(data, "<u4", count, 4)]
        if len(data) != start + count * _BLOCK_HEADER + 2 * sum(words):
            raise PayloadError("a matrix's blocks do not fill its bytes")
        blocks = []
        for size in words:
            models = np.frombuffer(data, "<i2", 4, start).reshape(2, 2)
            states = np.frombuffer(data, "<u4", rans.LANES, start + 8)
            blocks.append(
                HybridBlock(models, states, np.frombuffer(data, "<u2", size, start + _BLOCK_HEADER))
            )
            start += _BLOCK_HEADER + 2 * size
        return cls(shape, step, tuple(blocks))

    def decode_block(self, index: int) -> NDArray[np.int16]:
        """Integers of one block, int16 `[K, columns]`.

        Raises:
            PayloadError: the words are not exactly the block.
        """
        columns = column_blocks(self.shape[1])[index]
        block = self.blocks[index]
        shape = (self.shape[0], columns.stop - columns.start)
        return rans.decode(block.states, block.words, block.scale_models, shape)[0]

    def decoded_blocks(self) -> Iterator[tuple[slice, NDArray[np.int16]]]:
        """(columns, integers) of each block in turn."""
        for index, columns in enumerate(column_blocks(self.shape[1])):
            yield columns, self.decode_block(index)

    def decode(self) -> Float32:
        """The whole matrix as float32 `[K, N]`."""
        out = np.empty(self.shape, np.float32)
        for columns, integers in self.decoded_blocks():
            np.multiply(integers, np.float32(self.step), out=out[:, columns])
        return out


def encode_block(weights: Float32, feedback: Feedback | None, step: float) -> HybridBlock:
    """Quantise and code the weights of one block, float32 `[K, B]`."""
    columns = scales.column_levels(weights)
    integers, rows = quantise(weights, feedback, step, columns)
    models = np.array([scales.scale_model(rows), scales.scale_model(columns)], np.int16)
    states, words = rans.encode(integers, rows, columns, models)
    return HybridBlock(models, states, words)
