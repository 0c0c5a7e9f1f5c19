"""Keep a file to its size while its matrices are encoded one after the other, each once.

The steps come from a forecast. If a matrix takes more bytes than forecast, all that follow get
larger steps; if it takes fewer, they get smaller ones. If the file still misses its size, the last
matrix is encoded again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rbe_cli.algebra.elementary import exp2
from rbe_cli.compression.encoding import Source
from rbe_cli.compression.rate_control import GOOD_ENOUGH, FileBudget, SizeForecast, Steps

_FINER = 0.125  # octaves between the two steps whose sizes are forecast
_MOST_SHIFT = 1.0  # octaves by which the last steps may differ from those of the forecast
_LEAST_SLOPE = 0.1  # bits per weight for an octave of the step
_TRIES = 3  # encodings of one matrix at most


@dataclass(frozen=True)
class PlannedStep:
    """A quantisation step, and the forecast of what a matrix takes with it.

    Attributes:
        step: as `ErrorCost` defines it.
        size: bytes.
        slope: the bytes by which the matrix becomes smaller if the step becomes an octave larger.
    """

    step: float
    size: float
    slope: float


def plan_steps(
    steps: Steps, sources: Mapping[str, Source], forecast: SizeForecast
) -> dict[str, PlannedStep]:
    """Forecast what each matrix takes with its step, and near it."""
    sizes = forecast.bytes(steps)
    finer = forecast.bytes({name: step * 2.0**-_FINER for name, step in steps.items()})
    return {
        name: PlannedStep(
            step,
            sizes[name],
            max((finer[name] - sizes[name]) / _FINER, _LEAST_SLOPE * sources[name].size / 8),
        )
        for name, step in steps.items()
    }


class StepPacing:
    """The steps of the matrices that are still to be encoded."""

    def __init__(
        self,
        planned: Mapping[str, PlannedStep],
        own: Mapping[str, float],
        target: float,
        file: FileBudget,
        most: float,
    ) -> None:
        """Set the plan.

        Args:
            planned: the step of each matrix, at which the file should have the target's size.
            own: the bytes of each matrix whose rate is given, by name.
            target: bits per weight of the file.
            file: computes the bits per weight of the file from the bytes of its tensors.
            most: the largest bits per weight of the file.
        """
        self._steps = {name: plan.step for name, plan in planned.items()}
        self._sizes = {name: plan.size for name, plan in planned.items()}
        self._slopes = {name: plan.slope for name, plan in planned.items()}
        self._own = own
        self._target, self._file, self._most = target, file, most
        self._left = set(planned)
        self._tries = 0  # of the current matrix

    @property
    def bits_per_weight(self) -> float:
        """Return the bits per weight of the file, as far as they are known."""
        return self._file.bits_per_weight({name: int(size) for name, size in self._sizes.items()})

    @property
    def steps(self) -> Steps:
        """Return the step of each matrix."""
        return dict(self._steps)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the bytes of each matrix, real or forecast."""
        return {name: int(size) for name, size in self._sizes.items()}

    def step(self, name: str) -> float:
        """Return the step of the next matrix, after all that remain were corrected."""
        free = self._free()
        if self._tries == 0 and name in free:
            self._shift(free, self._excess(free))
        return self._steps[name]

    def accepts(self, name: str, size: int) -> bool:
        """Take in the bytes of the next matrix; return whether it need not be encoded again."""
        self._sizes[name] = size
        self._tries += 1
        if self._tries < _TRIES and (octaves := self._missed(name)):
            self._shift([name], octaves)
            return False
        self.keep(name, size)
        return True

    def keep(self, name: str, size: int) -> None:
        """Take in the bytes of the next matrix, which will not be encoded again."""
        self._sizes[name] = size
        self._left.remove(name)
        self._tries = 0

    def _free(self) -> list[str]:
        return [name for name in self._steps if name in self._left and name not in self._own]

    def _missed(self, name: str) -> float:
        """Return by how many octaves the step of an encoded matrix is too small; 0 if it is not."""
        if name in self._own:
            excess = self._sizes[name] - self._own[name]
            is_met = abs(excess) <= GOOD_ENOUGH * self._own[name]
            return 0.0 if is_met else excess / self._slopes[name]
        if self._free() != [name]:
            return 0.0
        reached = self.bits_per_weight
        is_met = abs(reached / self._target - 1) <= GOOD_ENOUGH and reached <= self._most
        return 0.0 if is_met else self._excess([name])

    def _excess(self, names: Sequence[str]) -> float:
        """Return by how many octaves larger the steps of matrices should be."""
        smaller = {name: int(self._sizes[name] - self._slopes[name]) for name in names}
        reached = self.bits_per_weight
        slope = reached - self._file.bits_per_weight(self.sizes | smaller)
        return (reached - self._target) / slope if slope > 0 else 0.0

    def _shift(self, names: Sequence[str], octaves: float) -> None:
        """Make the steps of matrices larger, and their sizes smaller."""
        octaves = min(max(octaves, -_MOST_SHIFT), _MOST_SHIFT)
        for name in names:
            self._steps[name] *= float(exp2(octaves))
            self._sizes[name] -= octaves * self._slopes[name]
