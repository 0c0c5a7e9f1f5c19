"""Encodes matrices block by block on an executor, in an order that depends on nothing."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import column_blocks, trellis_order
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock, encode_block
from rbe_cli.codec.ectcq.error_feedback import InputFactor, OutputFactor
from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.jobs.work_folder import Arrays
from rbe_cli.jobs.workers import Workers
from rbe_cli.runtime.arrays import sum_of_squares

Float32 = NDArray[np.float32]
_SAMPLE_COLUMNS = 64
_LEAST_STEP, _LARGEST_STEP = 1e-37, 1e33  # times any integer, normal numbers of float32


@dataclass(frozen=True)
class Cost:
    """What an error in a matrix `[K, N]` costs.

    Attributes:
        inputs: by its row.
        outputs: by its column, for each column block.
    """

    inputs: InputFactor
    outputs: tuple[OutputFactor, ...]

    @cached_property
    def unit(self) -> float:
        """The columns' geometric mean of C."""
        logs = [np.log(factor.diagonal) for factor in self.outputs]
        return float(np.exp(np.mean(np.concatenate(logs))))

    @cached_property
    def unit_step(self) -> float:
        """The step of a column of C = `unit` at which a weight's error costs a set amount."""
        return float(1 / np.sqrt(self.unit * np.mean(self.inputs.diagonal)))

    def columns(self, chosen: NDArray[np.int64]) -> OutputFactor:
        """C of some columns, by themselves."""
        parts = []
        for factor in self.outputs:
            part = np.empty(factor.diagonal.size)
            part[trellis_order(part.size)] = factor.diagonal
            parts.append(part)
        return OutputFactor.from_importance(np.concatenate(parts)[chosen])

    def to_arrays(self) -> Arrays:
        """As a work folder keeps it."""
        arrays: Arrays = {
            "order": self.inputs.order,
            "lower": self.inputs.lower,
            "diagonal": self.inputs.diagonal,
            "damping": np.array(self.inputs.damping),
        }
        for block, factor in enumerate(self.outputs):
            arrays[f"mixing-{block}"] = factor.mixing
            arrays[f"importance-{block}"] = factor.diagonal
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Cost":
        """The inverse of `to_arrays`."""
        damping = float(arrays["damping"])
        inputs = InputFactor(arrays["order"], arrays["lower"], arrays["diagonal"], damping)
        blocks = sum(name.startswith("mixing-") for name in arrays)
        return cls(
            inputs,
            tuple(
                OutputFactor(arrays[f"mixing-{block}"], arrays[f"importance-{block}"])
                for block in range(blocks)
            ),
        )


@dataclass(frozen=True)
class Source:
    """A matrix to encode.

    Attributes:
        weights: float32 `[K inputs, N outputs]`.
        unit_step: of its cost.
        load_cost: reads its cost, which is too large to be kept for every matrix.
        options: of the quantiser.
    """

    weights: Float32
    unit_step: float
    load_cost: Callable[[], Cost]
    options: QuantiserOptions

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.weights.size


def deviation(weights: Float32) -> float:
    """The root mean square of weights, summed in float64; 1 where all are zero."""
    return math.sqrt(sum_of_squares(weights) / weights.size) or 1.0


def encode_all(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> Iterator[tuple[str, EncodedMatrix]]:
    """(name, encoded) of each source in turn; blocks of several matrices run side by side.

    Args:
        sources: the matrices.
        steps: of each matrix's columns of C = `unit`.
        workers: run the blocks.
    """

    def blocks() -> Iterator[tuple[object, ...]]:
        for name, source in sources.items():
            cost, step = source.load_cost(), _rounded(steps[name])
            ranges = column_blocks(source.weights.shape[1])
            for columns, outputs in zip(ranges, cost.outputs, strict=True):
                weights = np.ascontiguousarray(source.weights[:, columns])
                yield weights, step, cost.inputs, outputs, cost.unit, source.options

    encoded = workers.starmap(encode_block, blocks())
    for name, source in sources.items():
        rows, columns = source.weights.shape
        own = tuple(islice(encoded, len(column_blocks(columns))))
        step = _rounded(steps[name])
        yield name, EncodedMatrix((rows, columns), step, own, source.options.states)


def sampled_bits(
    sources: Mapping[str, Source], steps: Mapping[str, float], workers: Workers
) -> dict[str, float]:
    """Bits a weight of some evenly spaced columns of each matrix, its scales included."""

    def samples() -> Iterator[tuple[object, ...]]:
        for name, source in sources.items():
            cost, columns = source.load_cost(), source.weights.shape[1]
            chosen = np.linspace(0, columns - 1, min(columns, _SAMPLE_COLUMNS)).astype(np.int64)
            weights = np.ascontiguousarray(source.weights[:, chosen])
            step = _rounded(steps[name])
            yield weights, step, cost.inputs, cost.columns(chosen), cost.unit, source.options

    return dict(zip(sources, workers.starmap(_sample_bits, samples()), strict=True))


def _rounded(step: float) -> float:
    """The step as a file holds it."""
    return float(np.float32(min(max(step, _LEAST_STEP), _LARGEST_STEP)))


def _sample_bits(
    weights: Float32,
    step: float,
    inputs: InputFactor,
    outputs: OutputFactor,
    unit: float,
    options: QuantiserOptions,
) -> float:
    block: HybridBlock = encode_block(weights, step, inputs, outputs, unit, options)
    return 8.0 * block.nbytes / weights.size
