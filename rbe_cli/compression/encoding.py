"""Encode matrices part by part on workers, in an order that does not depend on the workers."""

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
    """A matrix to encode with a quantisation step that rate control finds.

    Attributes:
        codec: the codec that encodes the matrix.
        options: the codec's options.
        shape: (K inputs, N outputs).
        power: the mean square of the weights.
        unit_step: the unit step of the matrix's cost (`ErrorCost`).
        load_weights: reads the weights, float32 `[K, N]`.
        load_cost: reads the cost. Like the weights, it is too large to keep in memory for every
            matrix.
    """

    codec: SteppedCodec
    options: CodecOptions
    shape: tuple[int, int]
    power: float
    unit_step: float
    load_weights: Callable[[], Float32]
    load_cost: Callable[[], ErrorCost]

    @classmethod
    def of(
        cls, codec: SteppedCodec, options: CodecOptions, weights: Float32, cost: ErrorCost
    ) -> "Source":
        """Return the source of a matrix that is in memory, float32 `[K, N]`."""
        rows, columns = weights.shape
        return cls(
            codec, options, (rows, columns), mean_square(weights), cost.unit_step,
            lambda: weights, lambda: cost,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Return the number of weights."""
        return math.prod(self.shape)

    @property
    def deviation(self) -> float:
        """Return the root mean square of the weights, as of `deviation`."""
        return deviation(self.power)

    def job(self, step: float) -> EncodingJob:
        """Return the codec's job for this quantisation step."""
        return EncodingJob(self.options, cost=self.load_cost(), step=step)


def mean_square(weights: Float32) -> float:
    """Return the mean square of weights, summed in float64."""
    return sum_of_squares(weights) / weights.size


def deviation(power: float) -> float:
    """Return the root of a mean square, or 1 if all weights are zero."""
    return math.sqrt(power) or 1.0


def encode_all(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> Iterator[tuple[str, bytes]]:
    """Yield (name, encoded bytes) of each source, in order. The parts run in parallel.

    Args:
        sources: the matrices by name.
        steps: the quantisation step of each matrix, as `ErrorCost` defines it.
        workers: run the parts in parallel.
    """

    def parts() -> Iterator[tuple[object, ...]]:
        """Yield the arguments of `_encode_part`."""
        for name, source in sources.items():
            for arguments in source.codec.parts(source.load_weights(), source.job(steps[name])):
                yield source.codec, *arguments

    encoded = workers.starmap(_encode_part, parts())
    for name, source in sources.items():
        own = list(islice(encoded, source.codec.count_parts(source.shape)))
        job = EncodingJob(source.options, step=steps[name])
        yield name, source.codec.join(source.shape, own, job)


def sampled_bits(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> dict[str, float]:
    """Return the bits per weight of some columns of each matrix, including their scales."""

    def samples() -> Iterator[tuple[object, ...]]:
        """Yield the arguments of `_sampled_bits`."""
        for name, source in sources.items():
            arguments = source.codec.sample(source.load_weights(), source.job(steps[name]))
            yield source.codec, *arguments

    return dict(zip(sources, workers.starmap(_sampled_bits, samples()), strict=True))


def _encode_part(codec: SteppedCodec, *arguments: object) -> object:
    return codec.encode_part(*arguments)


def _sampled_bits(codec: SteppedCodec, *arguments: object) -> float:
    return codec.sampled_bits(*arguments)
