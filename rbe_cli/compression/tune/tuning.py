"""Tune: a compressed model is brought nearer to the original, layer by layer, then as a whole.

First its matrices are encoded again so that they make up for each other's errors
(reconstruction.py), then what is not an integer is trained (distillation.py). Of the results,
and of what there was before, that is kept whose KL divergence on held-out text is least.
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
    """KL divergence on held-out text, nats a token, of each stage.

    Attributes:
        steps: of training.
        untuned: before.
        reconstructed: after the matrices were encoded again.
        tuned: after training. It and the one before are None where there was no such stage,
            or the file would have been too large.
    """

    steps: int
    untuned: float
    reconstructed: float | None = None
    tuned: float | None = None


class Tuning:
    """What a checkpoint's tuning needs."""

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
        """Args:
        model: the original.
        storing: encodes.
        metric: of the original.
        sequences: calibration text.
        seed: of the order in which they are trained on.
        workers, folder: compute, and keep what is finished.
        progress: told after each matrix and step.
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
        steps: int,
        measure: Callable[[Stored], Quality],
        fits: Callable[[Stored], bool],
    ) -> tuple[Stored, Quality, TuningReport]:
        """The best of what there was and what tuning makes.

        Args:
            stored: all tensors, in the checkpoint's order.
            quality: theirs.
            steps: of training.
            measure: the quality of tensors.
            fits: whether a file of them has the size that was asked for.
        """
        best = stored, quality
        stages: list[Callable[[Stored], Stored]] = [self._reconstructed]
        if steps > 0:
            stages.append(partial(self._trained, steps=steps))
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
        return *best, TuningReport(steps, quality.kl_divergence, *found)

    def _reconstructed(self, stored: Stored) -> Stored:
        """With all matrices of layers that a codec with feedback wrote encoded again."""
        by_name = {tensor.name: tensor for tensor in stored}
        bits = {
            tensor.name: _bits([tensor])
            for tensor in stored
            if codec_named(tensor.codec).weighs_errors
        }

        def encode(name: str, weights: Float32, inputs: InputFactor) -> Float32:
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

    def _trained(self, stored: Stored, steps: int) -> Stored:
        """With trained steps and vectors."""
        factored = [tensor.name for tensor in stored if codec_named(tensor.codec).has_column_steps]
        bits = _bits([tensor for tensor in stored if is_matrix(tensor.name)])
        tuned = distil(
            self._model, _decoded(stored), factored, self._sequences, steps, bits, self._seed,
            self._workers, self._folder, self._progress,
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
    """Bits a weight."""
    weights = sum(math.prod(tensor.shape) for tensor in stored)
    return 8 * sum(len(tensor.data) for tensor in stored) / weights


def _decoded(stored: Stored) -> dict[str, Float32]:
    """As `Gpt2` takes them, matrices `[inputs, outputs]`."""
    return {tensor.name: as_matrix(tensor.name, tensor.decode()) for tensor in stored}


def _bytes(tensor: StoredTensor) -> Arrays:
    return {"bytes": np.frombuffer(tensor.data, np.uint8)}
