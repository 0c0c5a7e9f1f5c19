"""Find the quantisation steps at which the file has the wanted size, and encode with them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np

from rbe_cli.algebra.elementary import exp2, log2
from rbe_cli.compression.encoding import Source, encode_all, sampled_bits
from rbe_cli.compression.scale_search import solve_scale
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.progress import Progress

SIZE_TOLERANCE = 0.01  # relative to the target
GOOD_ENOUGH = 0.002  # relative to the target: no further attempt is made below it
_SEARCH_TOLERANCE = 0.001  # relative to the target, for the forecast
_ATTEMPTS = 4  # at most; each encodes every matrix, with a better forecast than the one before

Steps = dict[str, float]


class FileBudget(Protocol):
    """The size of a file, of which all but the matrices of rate control is known."""

    def bits_per_weight(self, sizes: Mapping[str, int]) -> float:
        """Return the bits per weight of the file if the matrices take `sizes` bytes."""


class SizeForecast:
    """A forecast of the bytes that matrices take, from encoding a few columns of each.

    The sampled columns are encoded without error feedback from other columns, and the row
    scales are shared by fewer columns than in the whole matrix. `learn` corrects for the
    difference, once whole matrices were encoded.
    """

    def __init__(self, sources: Mapping[str, Source], workers: Workers) -> None:
        self._sources = sources
        self._workers = workers
        self._surplus = dict.fromkeys(sources, 0.0)  # bits per weight: whole matrix minus sample
        self._known: dict[tuple[str, float], float] = {}  # sampled bits per weight, by step

    def bytes(self, steps: Mapping[str, float]) -> dict[str, int]:
        """Return the forecast bytes of each matrix in `steps`, for its quantisation step."""
        sampled = self._sampled(steps)
        return {
            name: int(sampled[name] + self._surplus[name] * self._sources[name].size / 8)
            for name in steps
        }

    def learn(self, steps: Mapping[str, float], encoded: Mapping[str, int]) -> None:
        """Correct the forecast by the bytes of whole matrices, encoded with these steps."""
        for name, sampled in self._sampled(steps).items():
            self._surplus[name] = 8 * (encoded[name] - sampled) / self._sources[name].size

    def _sampled(self, steps: Mapping[str, float]) -> dict[str, float]:
        new = {name: step for name, step in steps.items() if (name, step) not in self._known}
        sources = {name: self._sources[name] for name in new}
        for name, bits in sampled_bits(sources, new, self._workers).items():
            self._known[name, new[name]] = bits
        return {
            name: self._known[name, step] * self._sources[name].size / 8
            for name, step in steps.items()
        }


def fit(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    file: FileBudget,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
    most: float = math.inf,
    forecast: SizeForecast | None = None,
) -> dict[str, bytes]:
    """Encode every matrix so that the file has the target's size.

    The matrices without a given rate share what the target leaves. The file is smaller than the
    target if even the finest steps that the codec's integers allow do not reach it.

    Args:
        sources: the matrices by name.
        own: bits per weight of the matrices whose rate is given, by name.
        target: bits per weight of the file.
        file: computes the bits per weight of the file from the bytes of every matrix.
        workers: encode parts of matrices in parallel.
        folder: keeps encoded matrices.
        progress: called after each matrix.
        most: the largest bits per weight of the file.
        forecast: a forecast of the sizes of these sources; None for a new one.

    Returns:
        The encoded bytes by name.

    Raises:
        UsageError: no quantisation steps give the target.
    """
    if not sources:
        return {}
    forecast, goal = forecast or SizeForecast(sources, workers), target
    is_free = len(own) < len(sources)
    tried: list[tuple[Steps, dict[str, int]]] = []
    least, best, result = (True, math.inf), "", math.inf

    def solve() -> Steps:
        """Return the steps of the next attempt, with what the last one taught."""
        if tried:
            forecast.learn(*tried[-1])
        return solve_steps(sources, own, goal, file, forecast)

    for attempt in range(_ATTEMPTS):
        step_name = f"bits-{target:.6f}-attempt-{attempt}"
        steps = _saved_steps(folder, step_name, solve)
        sizes = _encode(sources, steps, workers, folder, step_name, progress)
        reached = file.bits_per_weight(sizes)
        misses = [abs(8 * sizes[name] / sources[name].size / own[name] - 1) for name in own]
        if is_free:
            misses.append(abs(reached / target - 1))
        is_too_large = is_free and reached > most
        if max(misses) <= GOOD_ENOUGH and not is_too_large:
            return _encoded(sources, folder, step_name)
        if is_too_large:
            goal -= _SEARCH_TOLERANCE * target
        tried.append((steps, sizes))
        # The sum of misses, because a matrix of zeros never comes close to its given rate.
        if (rank := (is_too_large, sum(misses))) < least:
            least, best, result = rank, step_name, reached
    latest, _ = tried[-1]
    free = {name: latest[name] for name in sources if name not in own}
    check_reached(target, result, free, forecast)
    return _encoded(sources, folder, best)


def check_reached(target: float, result: float, free: Steps, forecast: SizeForecast) -> None:
    """Refuse a file whose size is not the target's.

    Args:
        target: bits per weight of the file.
        result: those that were reached.
        free: the steps of the matrices whose rate is free.
        forecast: forecasts their sizes.

    Raises:
        UsageError: the size was missed, and not because the steps are the finest.
    """
    missed = bool(free) and abs(result - target) > SIZE_TOLERANCE * target
    if missed and (result > target or not _is_finest(free, forecast)):
        raise UsageError(f"{target} bits a weight cannot be reached: the nearest is {result:.3f}")


def first_sizes(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    file: FileBudget,
    forecast: SizeForecast,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> tuple[Steps, dict[str, int]]:
    """Encode every matrix once, near the target; return the steps, and the bytes of each matrix.

    The arguments are those of `fit`.
    """
    attempt = f"bits-{target:.6f}-attempt-0"
    steps = _saved_steps(folder, attempt, lambda: solve_steps(sources, own, target, file, forecast))
    return steps, _encode(sources, steps, workers, folder, attempt, progress)


def _is_finest(steps: Steps, forecast: SizeForecast) -> bool:
    """Return whether finer steps hardly enlarge the matrices, whose integers are at the limit."""
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
) -> dict[str, int]:
    """Encode all sources, except those that an earlier run left in the folder.

    Returns:
        The encoded bytes of each. What they are waits in the folder.
    """
    progress("encoding", 0, len(sources))
    saved = {name: _kept_bytes(folder, attempt, name) for name in sources}
    missing = {name: source for name, source in sources.items() if saved[name] is None}
    encoding = encode_all(missing, steps, workers)
    sizes: dict[str, int] = {}
    for name, size in saved.items():
        if size is None:
            _, data = next(encoding)
            folder.save(f"{attempt}-{name}", {"bytes": np.frombuffer(data, np.uint8)})
            size = len(data)
        sizes[name] = size
        progress("encoding", len(sizes), len(sources))
    return sizes


def _kept_bytes(folder: WorkFolder, attempt: str, name: str) -> int | None:
    """Return how many bytes of a matrix an earlier run left; None if it was not encoded."""
    arrays = folder.load(f"{attempt}-{name}")
    return None if arrays is None else arrays["bytes"].size


def _encoded(names: Iterable[str], folder: WorkFolder, attempt: str) -> dict[str, bytes]:
    """Return the encoded bytes of an attempt by name."""
    return {name: folder.require(f"{attempt}-{name}")["bytes"].tobytes() for name in names}


def solve_steps(
    sources: Mapping[str, Source],
    own: Mapping[str, float],
    target: float,
    file: FileBudget,
    forecast: SizeForecast,
) -> Steps:
    """Return the steps that give `own` bits per weight to some sources, and the rest to others."""
    steps: Steps = {}
    for name, bits in own.items():
        unit, count = (
            rate_factor([sources[name]], bits) * sources[name].unit_step,
            sources[name].size,
        )

        def rate(scale: float, name: str = name, unit: float = unit, count: int = count) -> float:
            """Return the bits per weight of the matrix with the step `unit * scale`."""
            return 8 * forecast.bytes({name: unit * scale})[name] / count

        steps[name] = unit * solve_scale(rate, bits, _SEARCH_TOLERANCE * bits)
    shared = {name: source for name, source in sources.items() if name not in own}
    if not shared:
        return steps
    guess = rate_factor(shared.values(), target)
    known = forecast.bytes(steps)

    def scaled(scale: float) -> Steps:
        """Return the steps of the other sources, `scale` times the first guess."""
        return {name: guess * scale * source.unit_step for name, source in shared.items()}

    def bits_per_weight(scale: float) -> float:
        """Return the bits per weight of the file with the steps `scaled(scale)`."""
        return file.bits_per_weight(known | forecast.bytes(scaled(scale)))

    return steps | scaled(solve_scale(bits_per_weight, target, _SEARCH_TOLERANCE * target))


def rate_factor(sources: Iterable[Source], bits: float) -> float:
    """Return about the factor of all unit steps that gives `bits` bits per weight.

    An integer n = 2 q + z with standard deviation sigma takes log2(sigma) + 1.05 bits if sigma
    is large.
    """
    octaves, weights = 0.0, 0
    for source in sources:
        octaves += source.size * float(log2(source.deviation / source.unit_step))
        weights += source.size
    return float(exp2(octaves / max(weights, 1) + 1.05 - bits))
