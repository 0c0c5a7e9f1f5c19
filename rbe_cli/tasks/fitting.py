"""Finds the steps at which the file has the size that was asked for, and encodes with them."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from math import inf

from rbe_cli.codec.allocation import Probe, relative_steps, solve_scale
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

    A sample pays for its own row scales, which a whole matrix shares among more columns; the
    difference is learnt from matrices that were encoded whole.
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
    probes: Mapping[str, Probe],
    settings: Settings,
    size: Callable[[Mapping[str, int]], float],
    executor: Executor,
    progress: Progress,
) -> dict[str, EncodedMatrix]:
    """Encode every source so that the file has `settings.target_bpw`, if any rate is free.

    Args:
        sources: the matrices.
        probes: of each matrix.
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
    forecast.learn(
        {name: probe.step for name, probe in probes.items()},
        {name: probe.nbytes for name, probe in probes.items()},
    )
    fixed = _fixed_steps(sources, probes, settings, forecast)
    free = {name: probe for name, probe in probes.items() if name not in fixed}
    relative = relative_steps(free) if free else {}

    def scaled(scale: float) -> Steps:
        return fixed | {name: step * scale for name, step in relative.items()}

    target = settings.target_bpw

    def scale_for_target() -> float:
        return solve_scale(
            lambda scale: size(forecast.bytes(scaled(scale))), target, _SEARCH_TOLERANCE * target
        )

    nearest, best = inf, {}
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
    probes: Mapping[str, Probe],
    settings: Settings,
    forecast: Forecast,
) -> Steps:
    """Steps of the matrices for which an override names the bits."""
    steps = {}
    for name, source in sources.items():
        bits = settings.bits(name)
        if bits is None:
            continue
        step, weights = probes[name].step, source.weights.size

        def rate(scale: float, name: str = name, step: float = step, n: int = weights) -> float:
            return 8 * forecast.bytes({name: step * scale})[name] / n

        steps[name] = step * solve_scale(rate, bits, _SEARCH_TOLERANCE * bits)
    return steps
