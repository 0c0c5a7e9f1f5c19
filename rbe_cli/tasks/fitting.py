"""Finds the steps at which the file has the size that was asked for, and encodes with them."""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor

import numpy as np

from rbe_cli.codec.allocation import solve_scale
from rbe_cli.codec.matrix import EncodedMatrix
from rbe_cli.errors import UsageError
from rbe_cli.progress import Progress
from rbe_cli.tasks.encoding import Source, encode_all, sampled_bits
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
            name: int(sampled[name] + self._surplus[name] * self._sources[name].size / 8)
            for name in steps
        }

    def learn(self, steps: Mapping[str, float], encoded: Mapping[str, int]) -> None:
        """Take in the bytes of whole matrices that were encoded with these steps."""
        for name, sampled in self._sampled(steps).items():
            self._surplus[name] = 8 * (encoded[name] - sampled) / self._sources[name].size

    def _sampled(self, steps: Mapping[str, float]) -> dict[str, float]:
        chosen = {name: self._sources[name] for name in steps}
        bits = sampled_bits(chosen, steps, self._executor)
        return {name: bits[name] * source.size / 8 for name, source in chosen.items()}


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
    target = settings.target_bpw
    own = {name: bits for name in sources if (bits := settings.bits(name)) is not None}
    forecast = Forecast(sources, executor)
    nearest, best, result = math.inf, {}, math.inf
    for _ in range(_ATTEMPTS):
        steps = _solve(sources, own, target, size, forecast)
        encoded = {}
        progress("encoding", 0, len(sources))
        for name, matrix in encode_all(sources, steps, executor):
            encoded[name] = matrix
            progress("encoding", len(encoded), len(sources))
        sizes = {name: matrix.nbytes for name, matrix in encoded.items()}
        reached = size(sizes)
        misses = [abs(8 * sizes[name] / sources[name].size / own[name] - 1) for name in own]
        if len(own) < len(sources):
            misses.append(abs(reached / target - 1))
        if sum(misses) < nearest:  # the sum, as zeros never come near a rate of their own
            nearest, best, result = sum(misses), encoded, reached
        if max(misses) <= _GOOD_ENOUGH:
            return best
        forecast.learn(steps, sizes)
    if len(own) < len(sources) and abs(result - target) > SIZE_TOLERANCE * target:
        raise UsageError(f"{target} bits a weight cannot be reached: the nearest is {result:.3f}")
    return best


def _solve(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    size: Callable[[Mapping[str, int]], float],
    forecast: Forecast,
) -> Steps:
    """Steps of all sources: `own` bits a weight for some, the others share the target."""
    steps: Steps = {}
    for name, bits in own.items():
        unit, count = _guess([sources[name]], bits) * sources[name].unit_step, sources[name].size

        def rate(scale: float, name: str = name, unit: float = unit, count: int = count) -> float:
            return 8 * forecast.bytes({name: unit * scale})[name] / count

        steps[name] = unit * solve_scale(rate, bits, _SEARCH_TOLERANCE * bits)
    shared = {name: source for name, source in sources.items() if name not in own}
    if not shared:
        return steps
    guess = _guess(shared.values(), target)
    known = forecast.bytes(steps)

    def scaled(scale: float) -> Steps:
        return {name: guess * scale * source.unit_step for name, source in shared.items()}

    def bits_per_weight(scale: float) -> float:
        return size(known | forecast.bytes(scaled(scale)))

    return steps | scaled(solve_scale(bits_per_weight, target, _SEARCH_TOLERANCE * target))


def _guess(sources: Iterable[Source], bits: float) -> float:
    """About the factor of all unit steps that costs `bits` a weight.

    n = 2 q + z of deviation sigma has log2(sigma) + 1.05 bits where sigma is large.
    """
    octaves, weights = 0.0, 0
    for source in sources:
        size = source.size
        deviation = float(np.linalg.norm(source.weights)) / math.sqrt(size)
        octaves += size * math.log2((deviation or 1.0) / source.unit_step)
        weights += size
    return 2.0 ** (octaves / max(weights, 1) + 1.05 - bits)
