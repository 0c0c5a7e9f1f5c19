"""Encodes matrices block by block on an executor, in an order that depends on nothing."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.codec.geometry import column_blocks, trellis_order
from rbe_cli.codec.matrix import EncodedMatrix, HybridBlock, encode_block

Float32 = NDArray[np.float32]
_SAMPLE_COLUMNS = 64


@dataclass(frozen=True)
class Source:
    """A matrix to encode.

    Attributes:
        weights: float32 `[K inputs, N outputs]`.
        inputs: what an error costs by its row.
        outputs: what it costs by its column, for each column block.
    """

    weights: Float32
    inputs: InputFactor
    outputs: tuple[OutputFactor, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weights.size

    @cached_property
    def unit(self) -> float:
        """The columns' geometric mean of C."""
        logs = [np.log(factor.diagonal.astype(np.float64)) for factor in self.outputs]
        return float(np.exp(np.mean(np.concatenate(logs))))

    @cached_property
    def unit_step(self) -> float:
        """The step of a column of C = `unit` at which a weight's error costs a set amount."""
        return float(1 / np.sqrt(self.unit * np.mean(self.inputs.diagonal, dtype=np.float64)))


def encode_all(
    sources: Mapping[str, Source], steps: Mapping[str, float], executor: Executor
) -> Iterator[tuple[str, EncodedMatrix]]:
    """(name, encoded) of each source in turn; blocks of several matrices run side by side.

    Args:
        sources: the matrices.
        steps: of each matrix's columns of C = `unit`.
        executor: runs the blocks.
    """
    futures: dict[str, list[Future[HybridBlock]]] = {}
    for name, source in sources.items():
        blocks = column_blocks(source.weights.shape[1])
        futures[name] = [
            executor.submit(_encode_columns, source, columns, outputs, steps[name])
            for columns, outputs in zip(blocks, source.outputs, strict=True)
        ]
    for name, source in sources.items():
        encoded = tuple(future.result() for future in futures.pop(name))
        rows, columns = source.weights.shape
        yield name, EncodedMatrix((rows, columns), float(np.float32(steps[name])), encoded)


def sampled_bits(
    sources: Mapping[str, Source], steps: Mapping[str, float], executor: Executor
) -> dict[str, float]:
    """Bits a weight of some evenly spaced columns of each matrix, its scales included."""

    def bits(name: str) -> float:
        source = sources[name]
        rows, columns = source.weights.shape
        chosen = np.linspace(0, columns - 1, min(columns, _SAMPLE_COLUMNS)).astype(np.int64)
        block = _encode_columns(source, chosen, _importance(source, chosen), steps[name])
        return 8.0 * block.nbytes / (rows * chosen.size)

    return dict(zip(sources, executor.map(bits, sources), strict=True))


def _importance(source: Source, chosen: NDArray[np.int64]) -> OutputFactor:
    """C of some columns, by themselves."""
    diagonal = np.empty(source.weights.shape[1])
    for columns, factor in zip(column_blocks(diagonal.size), source.outputs, strict=True):
        diagonal[columns][trellis_order(factor.diagonal.size)] = factor.diagonal
    return OutputFactor.from_importance(diagonal[chosen])


def _encode_columns(
    source: Source, columns: slice | NDArray[np.int64], outputs: OutputFactor, step: float
) -> HybridBlock:
    weights = np.ascontiguousarray(source.weights[:, columns])
    step = float(np.float32(step))
    return encode_block(weights, step, source.inputs, outputs, source.unit)
