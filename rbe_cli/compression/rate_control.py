"""Finds the steps at which the file has the size that was asked for, and encodes with them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from rbe_cli.compression.encoding import Source, deviation, encode_all, sampled_bits
from rbe_cli.compression.scale_search import solve_scale
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.progress import Progress

SIZE_TOLERANCE = 0.01  # of the target
GOOD_ENOUGH = 0.002  # of the target: no further attempt is made
_SEARCH_TOLERANCE = 0.001  # of the target, for the forecast
_ATTEMPTS = 4  # at encoding everything, each with a better forecast

Steps = dict[str, float]


class FileBudget(Protocol):
    """Knows all of a file but the matrices that rate control encodes."""

    def bits_per_weight(self, sizes: Mapping[str, int]) -> float:
        """Return the bits a weight of the file, given the bytes of these matrices."""


class SizeForecast:
    """Bytes that matrices will take, from a few of their columns.

    A sample goes without feedback from column to column, and pays for row scales that a whole
    matrix shares among more columns; the difference is learnt from matrices encoded whole.
    """

    def __init__(self, sources: Mapping[str, Source], workers: Workers) -> None:
        self._sources = sources
        self._workers = workers
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
        bits = sampled_bits(chosen, steps, self._workers)
        return {name: bits[name] * source.size / 8 for name, source in chosen.items()}


def fit(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    file: FileBudget,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
    most: float = math.inf,
) -> dict[str, bytes]:
    """Encode every source so that the file has the target's size, if any rate is free.

    The file is smaller if the finest steps that integers allow make it so.

    Args:
        sources: the matrices.
        own: bits a weight of the matrices that have a rate of their own.
        target: bits a weight of the file.
        file: tells the bits a weight of the file, given the bytes of every matrix.
        workers: encode blocks.
        folder: keeps encoded matrices.
        progress: told after each matrix.
        most: bits a weight that a file of the target's size must not exceed.

    Raises:
        UsageError: no steps give the target.
    """
    if not sources:
        return {}
    forecast, goal = SizeForecast(sources, workers), target
    is_free = len(own) < len(sources)
    tried: list[tuple[Steps, dict[str, int]]] = []
    least, best, result = (True, math.inf), {}, math.inf

    def solve() -> Steps:
        if tried:
            forecast.learn(*tried[-1])
        return _solve(sources, own, goal, file, forecast)

    for attempt in range(_ATTEMPTS):
        step_name = f"bits-{target:.6f}-attempt-{attempt}"
        steps = _saved_steps(folder, step_name, solve)
        encoded = _encode(sources, steps, workers, folder, step_name, progress)
        sizes = {name: len(data) for name, data in encoded.items()}
        reached = file.bits_per_weight(sizes)
        misses = [abs(8 * sizes[name] / sources[name].size / own[name] - 1) for name in own]
        if is_free:
            misses.append(abs(reached / target - 1))
        is_too_large = is_free and reached > most
        if max(misses) <= GOOD_ENOUGH and not is_too_large:
            return encoded
        if is_too_large:
            goal -= _SEARCH_TOLERANCE * target
        tried.append((steps, sizes))
        # The sum of misses, as zeros never come near a rate of their own.
        if (rank := (is_too_large, sum(misses))) < least:
            least, best, result = rank, encoded, reached
    missed = is_free and abs(result - target) > SIZE_TOLERANCE * target
    free = {name: step for name, step in tried[-1][0].items() if name not in own}
    if missed and (result > target or not _is_finest(free, forecast)):
        raise UsageError(f"{target} bits a weight cannot be reached: the nearest is {result:.3f}")
    return best


def _is_finest(steps: Steps, forecast: SizeForecast) -> bool:
    """Whether finer steps would hardly make matrices larger: their integers' range is used up."""
    finer = forecast.bytes({name: step / 4 for name, step in steps.items()})
    return sum(finer.values()) < 1.01 * sum(forecast.bytes(steps).values())


def _saved_steps(folder: WorkFolder, name: str, solve: Callable[[], Steps]) -> Steps:
    saved = folder.keep(name, lambda: {n: np.array(step) for n, step in solve().items()})
    return {name: float(step) for name, step in saved.items()}


def _encode(
    sources: Mapping[str, Source],
    steps: Steps,
    workers: Workers,
    folder: WorkFolder,
    attempt: str,
    progress: Progress,
) -> dict[str, bytes]:
    """All sources; those that an earlier run encoded are read from the folder."""
    progress("encoding", 0, len(sources))
    saved = {name: folder.load(f"{attempt}-{name}") for name in sources}
    missing = {name: source for name, source in sources.items() if saved[name] is None}
    encoding = encode_all(missing, steps, workers)
    encoded: dict[str, bytes] = {}
    for name in sources:
        arrays = saved[name]
        if arrays is None:
            _, encoded[name] = next(encoding)
            folder.save(f"{attempt}-{name}", {"bytes": np.frombuffer(encoded[name], np.uint8)})
        else:
            encoded[name] = arrays["bytes"].tobytes()
        progress("encoding", len(encoded), len(sources))
    return encoded


def _solve(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    file: FileBudget,
    forecast: SizeForecast,
) -> Steps:
    """Steps of all sources: `own` bits a weight for some, the others share the target."""
    steps: Steps = {}
    for name, bits in own.items():
        unit, count = (
            rate_factor([sources[name]], bits) * sources[name].unit_step,
            sources[name].size,
        )

        def rate(scale: float, name: str = name, unit: float = unit, count: int = count) -> float:
            return 8 * forecast.bytes({name: unit * scale})[name] / count

        steps[name] = unit * solve_scale(rate, bits, _SEARCH_TOLERANCE * bits)
    shared = {name: source for name, source in sources.items() if name not in own}
    if not shared:
        return steps
    guess = rate_factor(shared.values(), target)
    known = forecast.bytes(steps)

    def scaled(scale: float) -> Steps:
        return {name: guess * scale * source.unit_step for name, source in shared.items()}

    def bits_per_weight(scale: float) -> float:
        return file.bits_per_weight(known | forecast.bytes(scaled(scale)))

    return steps | scaled(solve_scale(bits_per_weight, target, _SEARCH_TOLERANCE * target))


def rate_factor(sources: Iterable[Source], bits: float) -> float:
    """About the factor of all unit steps that costs `bits` a weight.

    n = 2 q + z of deviation sigma has log2(sigma) + 1.05 bits where sigma is large.
    """
    octaves, weights = 0.0, 0
    for source in sources:
        octaves += source.size * math.log2(deviation(source.weights) / source.unit_step)
        weights += source.size
    return 2.0 ** (octaves / max(weights, 1) + 1.05 - bits)
