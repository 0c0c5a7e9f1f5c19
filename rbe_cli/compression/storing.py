"""Encode every tensor of a checkpoint by its plan, so that the file has the wanted size."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rbe_cli.choices import Objective
from rbe_cli.codec.codec import Payload, SteppedCodec
from rbe_cli.compression.corrected_tensors import CorrectedTensors
from rbe_cli.compression.drift_correction import DriftCorrection, rates_to_correct
from rbe_cli.compression.output_file import OutputFile, PartialFile
from rbe_cli.compression.rate_control import (
    SIZE_TOLERANCE,
    SizeForecast,
    Steps,
    check_reached,
    first_sizes,
    fit,
    rate_factor,
    solve_steps,
)
from rbe_cli.compression.step_pacing import PlannedStep, StepPacing, plan_steps
from rbe_cli.compression.tensor_encoder import TensorEncoder
from rbe_cli.compression.tensor_plan import free_rate
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.heap import trim_heap

_MOST_PASSES = 3  # over the text; each knows what the matrices took in the one before


class Storing:
    """An encoder of all tensors of a checkpoint, which can make files of several sizes."""

    def __init__(
        self,
        encoder: TensorEncoder,
        correction: DriftCorrection,
        objective: Objective,
        file: OutputFile,
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Set what is the same at every size.

        Args:
            encoder: encodes single tensors.
            correction: corrects the drift of the compressed model.
            objective: what is minimised (`Settings`).
            file: the file that will be written.
            workers: encode parts of matrices in parallel.
            folder: keeps encoded matrices.
            progress: called after each matrix.
        """
        self._encoder = encoder
        self._correction = correction
        self._objective = objective
        self._file = file
        self._workers = workers
        self._folder = folder
        self._progress = progress
        self._sources = {
            name: encoder.source(name, plan.codec)
            for name, plan in encoder.plans.items()
            if isinstance(plan.codec, SteppedCodec)
        }
        self._forecast = SizeForecast(self._sources, workers)
        self._latest: tuple[Steps, dict[str, int]] | None = None  # steps and sizes of matrices

    def store(self, bits_per_weight: float, most: float = math.inf) -> list[StoredTensor]:
        """Encode all tensors, and return them in the checkpoint's order, any rotation last.

        Args:
            bits_per_weight: of the file. It is reached only if the rate of some matrix is free.
            most: the largest bits per weight of the file.

        Raises:
            UsageError: the size cannot be reached.
        """
        encoder = self._encoder
        given = [] if encoder.rotation is None else [encoder.rotation]
        plans = list(encoder.plans.values())
        own_bits = 8 * sum(len(own.data) for own in given) / sum(plan.size for plan in plans)
        rate = free_rate(plans, bits_per_weight, own_bits)
        encoder.factor = rate_factor(self._sources.values(), rate) if self._sources else None
        stored = [*given, *encoder.vectors()]
        stored += self._without_steps(rate)
        file = PartialFile(self._file, stored, {n: s.codec.name for n, s in self._sources.items()})
        rates = {
            name: bits
            for name, bits in rates_to_correct(
                encoder.plans.values(), rate, self._objective
            ).items()
            if encoder.metric.powers[name] > 0  # zeros stay zeros
        }
        if rates:
            stored = self._corrected(stored, rates, bits_per_weight, file, most)
        else:
            encoded = fit(
                self._sources, self._own_rates(), bits_per_weight, file, self._workers,
                self._folder, self._progress, most, self._forecast,
            )  # fmt: skip
            for name, data in encoded.items():
                stored.append(encoder.stored(name, Payload(self._sources[name].codec.name, data)))
        trim_heap()
        by_name = {tensor.name: tensor for tensor in stored}
        return [by_name[name] for name in encoder.plans] + given

    def _without_steps(self, rate: float) -> list[StoredTensor]:
        """Encode the matrices whose codecs choose their own steps.

        They are reported to the progress only if no rate control follows, which takes longer.
        """
        encoder, found = self._encoder, []
        names = [
            name
            for name, plan in encoder.plans.items()
            if plan.is_matrix and name not in self._sources
        ]
        tell = no_progress if self._sources or not names else self._progress
        tell("encoding", 0, len(names))
        for stored in encoder.matrices(names, rate):
            found.append(stored)
            tell("encoding", len(found), len(names))
        return found

    def _corrected(
        self,
        stored: Sequence[StoredTensor],
        rates: Mapping[str, float],
        target: float,
        file: PartialFile,
        most: float,
    ) -> list[StoredTensor]:
        """Encode the matrices again or for the first time, with corrected drift.

        Args:
            stored: the tensors that are encoded already. Matrices among them that are corrected
                are encoded again.
            rates: about the bits per weight of each matrix to correct, by name.
            target, most: bits per weight of the file.
            file: knows the sizes of `stored`.
        """
        # A search that fails tries again with exact tensors, of which others are corrected.
        tag = f"bits-{target:.6f}-corrected-{len(self._sources)}-{len(rates)}"
        # Without steps to choose, another pass would make the same file.
        for number in range(_MOST_PASSES if self._sources else 1):
            found, steps, reached = self._pass(stored, rates, target, file, most, f"{tag}-{number}")
            if reached <= most and abs(reached - target) <= SIZE_TOLERANCE * target:
                break
        if self._sources:
            own = self._own_rates()
            free = {name: step for name, step in steps.items() if name not in own}
            check_reached(target, reached, free, self._forecast)
        return found

    def _pass(
        self,
        stored: Sequence[StoredTensor],
        rates: Mapping[str, float],
        target: float,
        file: PartialFile,
        most: float,
        tag: str,
    ) -> tuple[list[StoredTensor], Steps, float]:
        """Encode all matrices once, with corrected drift.

        Args:
            stored, rates, target, file, most: see `_corrected`.
            tag: begins the names of what is kept in the work folder.

        Returns:
            All tensors, the steps of the matrices, and the bits per weight of the file.
        """
        sources, own = self._sources, self._own_rates()
        planned = self._planned(target, file, tag)
        bytes_of_own = {name: bits * sources[name].size / 8 for name, bits in own.items()}
        pacing = StepPacing(planned, bytes_of_own, target, file, most)
        known = {
            name: 8 * planned[name].size / sources[name].size for name in rates if name in planned
        }
        tensors = CorrectedTensors(
            self._encoder, stored, {**rates, **known}, file, pacing, self._folder, tag
        )
        self._correction(tensors, tag)
        self._latest = pacing.steps, pacing.sizes
        return list(tensors.stored.values()), pacing.steps, pacing.bits_per_weight

    def _planned(self, target: float, file: PartialFile, tag: str) -> dict[str, PlannedStep]:
        """Plan the steps of a file, with what the last one taught the forecast."""

        def plan() -> Arrays:
            """Return the fields of each plan, float64 `[3]`."""
            sources, own, forecast = self._sources, self._own_rates(), self._forecast
            if self._latest is None:
                self._latest = first_sizes(
                    sources, own, target, file, forecast, self._workers, self._folder,
                    self._progress,
                )  # fmt: skip
            forecast.learn(*self._latest)
            steps = solve_steps(sources, own, target, file, forecast)
            planned = plan_steps(steps, sources, forecast)
            return {name: np.array([p.step, p.size, p.slope]) for name, p in planned.items()}

        if not self._sources:
            return {}
        saved = self._folder.keep(f"{tag}-steps", plan)
        return {name: PlannedStep(*map(float, fields)) for name, fields in saved.items()}

    def _own_rates(self) -> dict[str, float]:
        """Return the bits per weight of each matrix with a step whose rate is given."""
        options = {name: self._encoder.plans[name].options for name in self._sources}
        return {name: own.bits for name, own in options.items() if own.bits is not None}
