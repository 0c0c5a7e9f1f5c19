"""Tune a compressed model: bring its predictions closer to those of the original.

The parameters that are not integers are trained (distillation.py). Of the untuned model and the
result, the one with the smaller KL divergence on held-out text is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rbe_cli.codec.registry import codec_named
from rbe_cli.compression.metric import as_matrix
from rbe_cli.compression.output_file import Quality
from rbe_cli.compression.tensor_encoder import TensorEncoder
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.compression.tune.distillation import distil
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.evaluation.batching import Tokens
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import ROTATION, is_embedding, is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32

Stored = Sequence[StoredTensor]
_FACTOR_BITS = 3.0  # for each factor, what training adds to a file, trained LayerNorms included


@dataclass(frozen=True)
class TuningReport:
    """The KL divergence on held-out text after each stage, in nats per token.

    Attributes:
        steps: the number of training steps.
        untuned: before tuning.
        reconstructed: the same as `untuned`. The matrices were encoded again here, before every
            compression corrected its drift (drift_correction.py).
        tuned: after training. It is None if there was no training, or if the file would have
            been too large.
    """

    steps: int
    untuned: float
    reconstructed: float
    tuned: float | None = None


def room_for_training(plans: Sequence[TensorPlan]) -> float:
    """Return about the bits per weight that the training adds to a file of free rates."""
    factors = sum(
        math.prod(plan.shape) // plan.shape[1 if is_embedding(plan.name) else 0]
        for plan in plans
        if plan.is_matrix and plan.is_free and plan.codec.has_column_steps
    )
    return _FACTOR_BITS * factors / sum(plan.size for plan in plans)


class Tuning:
    """A function that tunes the encoded tensors of a checkpoint."""

    def __init__(
        self,
        model: Gpt2,
        encoder: TensorEncoder,
        sequences: Sequence[Tokens],
        seed: int,
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Set what does not depend on the encoded tensors.

        Args:
            model: the original.
            encoder: encodes tensors.
            sequences: the calibration text.
            seed: the seed of the order of the training text.
            workers: compute in parallel.
            folder: keeps finished parts of the work.
            progress: called after each matrix and each training step.
        """
        self._model = model
        self._encoder = encoder
        self._sequences = sequences
        self._seed = seed
        self._workers = workers
        self._folder = folder
        self._progress = progress

    def __call__(
        self,
        stored: Stored,
        quality: Quality,
        training_steps: int,
        measure: Callable[[Stored], Quality],
        fits: Callable[[Stored], bool],
    ) -> tuple[Stored, Quality, TuningReport]:
        """Tune tensors, and return the best of them and of the tuned ones.

        Args:
            stored: all tensors, in the checkpoint's order.
            quality: their quality.
            training_steps: the number of training steps; 0 skips the training.
            measure: returns the quality of tensors.
            fits: returns whether a file of these tensors keeps to the wanted size.

        Returns:
            The tensors, their quality, and the report on all stages.
        """
        before = quality.kl_divergence
        if training_steps == 0:
            return stored, quality, TuningReport(0, before, before)
        trained = self._trained(stored, training_steps)
        if not fits(trained):
            return stored, quality, TuningReport(training_steps, before, before)
        reached = measure(trained)
        report = TuningReport(training_steps, before, before, reached.kl_divergence)
        if reached.kl_divergence < before:
            return trained, reached, report
        return stored, quality, report

    def _trained(self, stored: Stored, training_steps: int) -> Stored:
        """Return the tensors, with trained quantisation steps and vectors."""
        factored = [
            tensor.name
            for tensor in stored
            if codec_named(tensor.codec).has_column_steps and tensor.name != ROTATION
        ]
        bits = _bits([tensor for tensor in stored if is_matrix(tensor.name)])
        # Each training step reads the original from the work folder, and has a new model.
        with self._workers.on_this_machine() as threads:
            tuned = distil(
                self._model, _decoded(stored), factored, self._sequences, training_steps, bits,
                self._seed, threads, self._folder, self._progress,
            )  # fmt: skip
        found = []
        for tensor in stored:
            if tensor.name in tuned.factors:
                found.append(_rescaled(tensor, tuned.factors[tensor.name]))
            elif tensor.name in tuned.vectors:
                found.append(self._encoder.vector(tensor.name, tuned.vectors[tensor.name]))
            else:
                found.append(tensor)
        return found


def _rescaled(tensor: StoredTensor, factors: Float32) -> StoredTensor:
    codec = codec_named(tensor.codec)
    return replace(tensor, data=codec.rescaled(tensor.data, tensor.matrix_shape, factors))


def _bits(stored: Stored) -> float:
    """Return the bits per weight of these tensors."""
    weights = sum(math.prod(tensor.shape) for tensor in stored)
    return 8 * sum(len(tensor.data) for tensor in stored) / weights


def _decoded(stored: Stored) -> dict[str, Float32]:
    """Return the decoded tensors as `Gpt2` takes them, matrices `[inputs, outputs]`."""
    return {tensor.name: as_matrix(tensor.name, tensor.decode()) for tensor in stored}
