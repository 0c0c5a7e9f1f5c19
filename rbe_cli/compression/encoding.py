"""Encodes matrices part by part on workers, in an order that depends on nothing."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.codec import CodecOptions, EncodingJob, SteppedCodec
from rbe_cli.codec.error_cost import ErrorCost
from rbe_cli.jobs.workers import Workers
from rbe_cli.runtime.arrays import sum_of_squares

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A matrix to encode with steps that rate control finds.

    Attributes:
        codec: encodes it.
        options: of the codec.
        weights: float32 `[K inputs, N outputs]`.
        unit_step: of its cost.
        load_cost: reads its cost, which is too large to be kept for every matrix.
    """

    codec: SteppedCodec
    options: CodecOptions
    weights: Float32
    unit_step: float
    load_cost: Callable[[], ErrorCost]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weights.size

    def job(self, step: float) -> EncodingJob:
        """Return what the codec is told with such a step."""
        return EncodingJob(self.options, cost=self.load_cost(), step=step)


def deviation(weights: Float32) -> float:
    """Return the root mean square of weights, summed in float64; 1 where all are zero."""
    return math.sqrt(sum_of_squares(weights) / weights.size) or 1.0


def encode_all(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, encoded bytes) of each source in turn; parts of several run side by side.

    Args:
        sources: the matrices.
        steps: of each matrix's columns of C = `unit` (`ErrorCost`).
        workers: run the parts.
    """

    def parts() -> Iterator[tuple[object, ...]]:
        for name, source in sources.items():
            for arguments in source.codec.parts(source.weights, source.job(steps[name])):
                yield source.codec, *arguments

    encoded = workers.starmap(_encode_part, parts())
    for name, source in sources.items():
        own = list(islice(encoded, source.codec.count_parts(source.weights.shape)))
        job = EncodingJob(source.options, step=steps[name])
        yield name, source.codec.join(source.weights.shape, own, job)


def sampled_bits(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> dict[str, float]:
    """Return the bits a weight of some columns of each matrix, their scales included."""

    def samples() -> Iterator[tuple[object, ...]]:
        for name, source in sources.items():
            arguments = source.codec.sample(source.weights, source.job(steps[name]))
            yield source.codec, *arguments

    return dict(zip(sources, workers.starmap(_sampled_bits, samples()), strict=True))


def _encode_part(codec: SteppedCodec, *arguments: object) -> object:
    return codec.encode_part(*arguments)


def _sampled_bits(codec: SteppedCodec, *arguments: object) -> float:
    return codec.sampled_bits(*arguments)
