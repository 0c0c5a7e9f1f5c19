"""Finds the steps at which the file has the size that was asked for, and encodes with them."""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor

import numpy as np

from rbe_cli.codec.allocation import solve_scale
from rbe_cli.codec.matrix import EncodedMatrix
from rbe_cli.errors import UsageError
from rbe_cli.tasks.encoding import Source, encode_all, sampled_bits
from rbe_cli.tasks.progress import Progress
from rbe_cli.tasks.settings import Settings

SIZE_TOLERANCE = 0.01  # of the target, as the contract allows
_GOOD_ENOUGH = 0.005  # of the target: no further attempt is made
_SEARCH_TOLERANCE = 0.001  # of the target, for the forecast
_ATTEMPTS = 4  # at encoding everything, each with a better forecast

Steps = dict[str, float]


class Forecast:
    """Bytes that matrices will take, from a few of their columns.

    A sample goes without feedback from column to column, and pays for row scales that a whole
    matrix shares among more columns; the difference is learnt from matrices encoded whole.
    """

    def __init__(self, sources: Mapping[str, Source], executor: Executor) -> None:
        self._sources = sources
        self._executor = executor
        self._surplus = dict.fromkeys(sources, 0.0)  # bits a weight of whole over sample

    def bytes(self, steps: Mapping[str, float]) -> dict[str, int]:
        """By matrix, for the matrices that have a step."""
        sampled = self._sampled(steps)
        return {
            name: int(sampled[name] + self._surplus[name] * self._sources[name].weights.size / 8)
            for name in steps
        }

    def learn(self, steps: Mapping[str, float], encoded: Mapping[str, int]) -> None:
        """Take in the bytes of whole matrices that were encoded with these steps."""
        for name, sampled in self._sampled(steps).items():
            self._surplus[name] = 8 * (encoded[name] - sampled) / self._sources[name].weights.size

    def _sampled(self, steps: Mapping[str, float]) -> dict[str, float]:
        chosen = {name: self._sources[name] for name in steps}
        bits = sampled_bits(chosen, steps, self._executor)
        return {name: bits[name] * source.weights.size / 8 for name, source in chosen.items()}


def fit(
    sources: Mapping[str, Source],
    settings: Settings,
    size: Callable[[Mapping[str, int]], float],
    executor: Executor,
    progress: Progress,
) -> dict[str, EncodedMatrix]:
    """Encode every source so that the file has `settings.target_bpw`, if any rate is free.

    Args:
        sources: the matrices.
        settings: the target, and the matrices that have a rate of their own.
        size: bits a weight of the file, given the bytes of every matrix.
        executor: where blocks are encoded.
        progress: told after each matrix.

    Raises:
        UsageError: no steps give the target.
    """
    if not sources:
        return {}
    forecast = Forecast(sources, executor)
    fixed = _fixed_steps(sources, settings, forecast)
    free = {name: source for name, source in sources.items() if name not in fixed}
    guess = _guess(free.values(), settings.target_bpw)

    def scaled(scale: float) -> Steps:
        return fixed | {name: guess * scale * source.unit_step for name, source in free.items()}

    target = settings.target_bpw

    def scale_for_target() -> float:
        return solve_scale(
            lambda scale: size(forecast.bytes(scaled(scale))), target, _SEARCH_TOLERANCE * target
        )

    nearest, best = math.inf, {}
    for _ in range(_ATTEMPTS):
        steps = scaled(scale_for_target()) if free else fixed
        encoded = {}
        progress("encoding", 0, len(sources))
        for name, matrix in encode_all(sources, steps, executor):
            encoded[name] = matrix
            progress("encoding", len(encoded), len(sources))
        sizes = {name: matrix.nbytes for name, matrix in encoded.items()}
        reached = size(sizes)
        if abs(reached - target) < abs(nearest - target):
            nearest, best = reached, encoded
        if not free or abs(nearest - target) <= _GOOD_ENOUGH * target:
            return best
        forecast.learn(steps, sizes)
    if abs(nearest - target) > SIZE_TOLERANCE * target:
        raise UsageError(f"{target} bits a weight cannot be reached: the nearest is {nearest:.3f}")
    return best


def _fixed_steps(
    sources: Mapping[str, Source],
    settings: Settings,
    forecast: Forecast,
) -> Steps:
    """Steps of the matrices for which an override names the bits."""
    steps = {}
    for name, source in sources.items():
        bits = settings.bits(name)
        if bits is None:
            continue
        step, weights = _guess([source], bits) * source.unit_step, source.weights.size

        def rate(scale: float, name: str = name, step: float = step, n: int = weights) -> float:
            return 8 * forecast.bytes({name: step * scale})[name] / n

        steps[name] = step * solve_scale(rate, bits, _SEARCH_TOLERANCE * bits)
    return steps


def _guess(sources: Iterable[Source], bits: float) -> float:
    """About the factor of all unit steps that costs `bits` a weight.

    n = 2 q + z of deviation sigma has log2(sigma) + 1.05 bits where sigma is large.
    """
    octaves, weights = 0.0, 0
    for source in sources:
        size = source.weights.size
        deviation = float(np.linalg.norm(source.weights)) / math.sqrt(size)
        octaves += size * math.log2((deviation or 1.0) / source.unit_step)
        weights += size
    return 2.0 ** (octaves / max(weights, 1) + 1.05 - bits)
