"""Tune a compressed model: bring its predictions closer to those of the original.

First its matrices are encoded again so that they correct each other's errors (reconstruction.py).
Then the parameters that are not integers are trained (distillation.py). Of the untuned model and
both results, the one with the smallest KL divergence on held-out text is kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rbe_cli.codec.error_cost import InputFactor
from rbe_cli.codec.registry import codec_named
from rbe_cli.compression.metric import Metric, as_matrix
from rbe_cli.compression.output_file import Quality
from rbe_cli.compression.storing import Storing
from rbe_cli.compression.tune.distillation import distil
from rbe_cli.compression.tune.reconstruction import reconstruct
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.evaluation.batching import Tokens
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32

Stored = Sequence[StoredTensor]


@dataclass(frozen=True)
class TuningReport:
    """The KL divergence on held-out text after each stage, in nats per token.

    Attributes:
        steps: the number of training steps.
        untuned: before tuning.
        reconstructed: after the matrices were encoded again. It is None if the file would have
            been too large.
        tuned: after training. It is None if there was no training, or if the file would have
            been too large.
    """

    steps: int
    untuned: float
    reconstructed: float | None = None
    tuned: float | None = None


class Tuning:
    """A function that tunes the encoded tensors of a checkpoint."""

    def __init__(
        self,
        model: Gpt2,
        storing: Storing,
        metric: Metric,
        sequences: Sequence[Tokens],
        seed: int,
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Set what does not depend on the encoded tensors.

        Args:
            model: the original.
            storing: encodes tensors.
            metric: the cost of errors in the original.
            sequences: the calibration text.
            seed: the seed of the order of the training text.
            workers: compute in parallel.
            folder: keeps finished parts of the work.
            progress: called after each matrix and each training step.
        """
        self._model = model
        self._storing = storing
        self._metric = metric
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
        best = stored, quality
        stages: list[Callable[[Stored], Stored]] = [self._reconstructed]
        if training_steps > 0:
            stages.append(partial(self._trained, training_steps=training_steps))
        found: list[float | None] = []
        for stage in stages:
            stored = stage(stored)
            if not fits(stored):
                found.append(None)
                continue
            reached = measure(stored)
            found.append(reached.kl_divergence)
            if reached.kl_divergence < best[1].kl_divergence:
                best = stored, reached
        return *best, TuningReport(training_steps, quality.kl_divergence, *found)

    def _reconstructed(self, stored: Stored) -> Stored:
        """Return the tensors, with all matrices encoded again whose codecs weigh errors."""
        by_name = {tensor.name: tensor for tensor in stored}
        bits = {
            tensor.name: _bits([tensor])
            for tensor in stored
            if codec_named(tensor.codec).weighs_errors
        }

        def encode(name: str, weights: Float32, inputs: InputFactor) -> Float32:
            """Encode a matrix, keep it, and return its decoded weights."""
            cost = replace(self._metric.cost(name), inputs=inputs)
            saved = self._folder.keep(
                f"reconstructed-{name}",
                lambda: _bytes(self._storing.encode_again(by_name[name], weights, cost)),
            )
            by_name[name] = replace(by_name[name], data=saved["bytes"].tobytes())
            return by_name[name].decode()

        compressed = Gpt2(self._model.config, _decoded(stored), self._model.kernels)
        biases = reconstruct(
            self._model, compressed, self._sequences, bits, encode, self._workers, self._progress
        )
        for name, bias in biases.items():
            by_name[name] = self._storing.vector(name, bias)
        return list(by_name.values())

    def _trained(self, stored: Stored, training_steps: int) -> Stored:
        """Return the tensors, with trained quantisation steps and vectors."""
        factored = [tensor.name for tensor in stored if codec_named(tensor.codec).has_column_steps]
        bits = _bits([tensor for tensor in stored if is_matrix(tensor.name)])
        tuned = distil(
            self._model, _decoded(stored), factored, self._sequences, training_steps, bits,
            self._seed, self._workers, self._folder, self._progress,
        )  # fmt: skip
        found = []
        for tensor in stored:
            if tensor.name in tuned.factors:
                found.append(_rescaled(tensor, tuned.factors[tensor.name]))
            elif tensor.name in tuned.vectors:
                found.append(self._storing.vector(tensor.name, tuned.vectors[tensor.name]))
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


def _bytes(tensor: StoredTensor) -> Arrays:
    return {"bytes": np.frombuffer(tensor.data, np.uint8)}
