"""Encode every tensor of a checkpoint by its plan, so that the file has the wanted size."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.codec import Codec, EncodingJob, Payload, SteppedCodec
from rbe_cli.codec.error_cost import ErrorCost
from rbe_cli.compression.encoding import Source, encode_all
from rbe_cli.compression.metric import Metric, as_matrix
from rbe_cli.compression.output_file import OutputFile, PartialFile
from rbe_cli.compression.rate_control import fit, rate_factor
from rbe_cli.compression.tensor_plan import TensorPlan, free_rate
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.progress import Progress, no_progress

Float32 = NDArray[np.float32]


class Storing:
    """An encoder of all tensors of a checkpoint, which can make files of several sizes."""

    def __init__(
        self,
        plans: Sequence[TensorPlan],
        tensors: Mapping[str, Float32],
        metric: Metric,
        file: OutputFile,
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Set what is the same at every size.

        Args:
            plans: the plans of all tensors, in the checkpoint's order.
            tensors: the tensors of the checkpoint, float32. One is read when it is needed.
            metric: the cost of errors.
            file: the file that will be written.
            workers: encode parts of matrices in parallel.
            folder: keeps encoded matrices.
            progress: called after each matrix.
        """
        self._plans = {plan.name: plan for plan in plans}
        self._tensors = tensors
        self._metric = metric
        self._file = file
        self._workers = workers
        self._folder = folder
        self._progress = progress
        self._factor: float | None = None  # of the unit steps of the last file

    def store(self, bits_per_weight: float, most: float = math.inf) -> list[StoredTensor]:
        """Encode all tensors, and return them in the checkpoint's order.

        Args:
            bits_per_weight: of the file. It is reached only if the rate of some matrix is free.
            most: the largest bits per weight of the file.

        Raises:
            UsageError: the size cannot be reached.
        """
        plans = list(self._plans.values())
        rate = free_rate(plans, bits_per_weight)
        stepped = {
            plan.name: self._source(plan, plan.codec)
            for plan in plans
            if isinstance(plan.codec, SteppedCodec)
        }
        self._factor = rate_factor(stepped.values(), rate) if stepped else None
        others = [plan for plan in plans if plan.name not in stepped]
        stored = [
            self.vector(own.name, self._tensors[own.name]) for own in others if not own.is_matrix
        ]
        stored += self._matrices([own for own in others if own.is_matrix], rate)
        own = {
            name: bits for name in stepped if (bits := self._plans[name].options.bits) is not None
        }
        codecs = {name: source.codec.name for name, source in stepped.items()}
        encoded = fit(
            stepped, own, bits_per_weight, PartialFile(self._file, stored, codecs),
            self._workers, self._folder, self._progress, most,
        )  # fmt: skip
        stored += [
            self._stored(name, Payload(codecs[name], data)) for name, data in encoded.items()
        ]
        by_name = {tensor.name: tensor for tensor in stored}
        return [by_name[name] for name in self._plans]

    def vector(self, name: str, values: Float32) -> StoredTensor:
        """Encode a bias or LayerNorm parameter `[n]` for a file of the last size.

        Its quantisation step is half the one that would be optimal for the size, so that its
        errors do not matter beside those of the matrices.
        """
        plan, step = self._plans[name], None
        if self._factor is not None and name in self._metric.squares:
            mean = float(np.mean(self._metric.squares[name]))
            # If no output depends on the vector, its errors have no known cost: use a tiny step.
            step = self._factor / math.sqrt(mean) / 2 if mean > 0 else 0.0
            step = min(max(step, 1e-6 * float(np.abs(values).max())), 1e30) or 1.0
        return self._stored(name, _encode(plan, values, EncodingJob(plan.options, step=step)))

    def encode_again(self, stored: StoredTensor, weights: Float32, cost: ErrorCost) -> StoredTensor:
        """Encode a layer's matrix with other weights `[K, N]`, in about as many bytes.

        Args:
            stored: the encoded matrix, whose codec takes the cost of errors into account.
            weights: the new weights, float32.
            cost: the cost of errors in them.
        """
        plan = self._plans[stored.name]
        job = plan.codec.job_like(stored.data, stored.encoded_shape, plan.options, cost)
        if isinstance(plan.codec, SteppedCodec) and job.step is not None:
            source = Source.of(plan.codec, plan.options, weights, cost)
            ((_, data),) = encode_all({plan.name: source}, {plan.name: job.step}, self._workers)
            return replace(stored, data=data)
        (payload,) = self._workers.map(_encode, (plan,), (weights,), (job,))
        return replace(stored, data=payload.data)

    def _source(self, plan: TensorPlan, codec: SteppedCodec) -> Source:
        name = plan.name
        return Source(
            codec,
            plan.options,
            plan.matrix_shape,
            self._metric.powers[name],
            self._metric.unit_steps[name],
            lambda: as_matrix(name, self._tensors[name]),
            partial(self._metric.cost, name),
        )

    def _matrices(self, plans: Sequence[TensorPlan], rate: float) -> Iterator[StoredTensor]:
        """Yield the matrices whose codecs choose their own steps. Free ones get `rate`.

        They are reported to the progress only if no rate control follows, which takes longer.
        """
        encoded = self._workers.map(
            _encode,
            plans,
            (self._values(plan) for plan in plans),
            (self._job(plan, rate) for plan in plans),
        )
        tell = no_progress if self._factor is not None or not plans else self._progress
        tell("encoding", 0, len(plans))
        for done, (plan, payload) in enumerate(zip(plans, encoded, strict=True), 1):
            tell("encoding", done, len(plans))
            yield self._stored(plan.name, payload)

    def _job(self, plan: TensorPlan, rate: float) -> EncodingJob:
        cost = self._metric.cost(plan.name) if plan.codec.weighs_errors else None
        return EncodingJob(plan.options, rate, cost)

    def _values(self, plan: TensorPlan) -> Float32:
        tensor = self._tensors[plan.name]
        return tensor if plan.codec.keeps_orientation else as_matrix(plan.name, tensor)

    def _stored(self, name: str, payload: Payload) -> StoredTensor:
        return StoredTensor(name, self._plans[name].shape, payload.codec, payload.data)


def _encode(plan: TensorPlan, values: Float32, job: EncodingJob) -> Payload:
    """Encode a tensor. An error names the tensor."""
    codec: Codec = plan.codec
    try:
        return codec.encode(values, job)
    except UsageError as error:
        raise UsageError(f"{plan.name}: {error}") from error
