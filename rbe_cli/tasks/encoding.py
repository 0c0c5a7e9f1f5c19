"""Encodes matrices block by block on an executor, in an order that depends on nothing."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.feedback import Feedback
from rbe_cli.codec.matrix import EncodedMatrix, HybridBlock, column_blocks, encode_block

Float32 = NDArray[np.float32]
_SAMPLE_COLUMNS = 64


@dataclass(frozen=True)
class Source:
    """A matrix to encode.

    Attributes:
        weights: float32 `[K inputs, N outputs]`.
        feedback: of its inputs; None if each row stands for itself.
    """

    weights: Float32
    feedback: Feedback | None = None


def encode_all(
    sources: Mapping[str, Source], steps: Mapping[str, float], executor: Executor
) -> Iterator[tuple[str, EncodedMatrix]]:
    """(name, encoded) of each source in turn; blocks of several matrices run side by side."""
    futures: dict[str, list[Future[HybridBlock]]] = {}
    for name, source in sources.items():
        futures[name] = [
            executor.submit(_encode_columns, source, columns, steps[name])
            for columns in column_blocks(source.weights.shape[1])
        ]
    for name, source in sources.items():
        blocks = tuple(future.result() for future in futures.pop(name))
        rows, columns = source.weights.shape
        yield name, EncodedMatrix((rows, columns), float(np.float32(steps[name])), blocks)


def sampled_bits(
    sources: Mapping[str, Source], steps: Mapping[str, float], executor: Executor
) -> dict[str, float]:
    """Bits a weight of some evenly spaced columns of each matrix, its scales included."""

    def bits(name: str) -> float:
        source = sources[name]
        columns = source.weights.shape[1]
        chosen = np.linspace(0, columns - 1, min(columns, _SAMPLE_COLUMNS)).astype(np.int64)
        block = _encode_columns(source, chosen, steps[name])
        return 8.0 * block.nbytes / (source.weights.shape[0] * chosen.size)

    return dict(zip(sources, executor.map(bits, sources), strict=True))


def _encode_columns(source: Source, columns: slice | NDArray[np.int64], step: float) -> HybridBlock:
    weights = np.ascontiguousarray(source.weights[:, columns])
    return encode_block(weights, source.feedback, float(np.float32(step)))
