"""Encode single tensors of a checkpoint by their plans."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.codec import Codec, EncodingJob, Payload, SteppedCodec
from rbe_cli.codec.error_cost import ErrorCost
from rbe_cli.compression.encoding import Source, encode_all
from rbe_cli.compression.metric import Metric, as_matrix
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.jobs.workers import Workers

Float32 = NDArray[np.float32]


class TensorEncoder:
    """An encoder of the tensors of a checkpoint.

    Attributes:
        plans: the plans of all tensors by name, in the checkpoint's order.
        metric: the cost of errors.
        rotation: the rotation of the residual stream, encoded already; None if there is none.
        factor: that of the unit steps of the file that is made; None if no matrix has a step.
        workers: encode in parallel.
    """

    def __init__(
        self,
        plans: Sequence[TensorPlan],
        tensors: Mapping[str, Float32],
        metric: Metric,
        workers: Workers,
        rotation: StoredTensor | None = None,
    ) -> None:
        """Set what is the same for every file.

        Args:
            plans: the plans of all tensors, in the checkpoint's order.
            tensors: the tensors of the checkpoint, float32. One is read when it is needed.
            metric: the cost of errors.
            workers: encode in parallel.
            rotation: that the tensors were rotated by; None if they were not.
        """
        self.plans = {plan.name: plan for plan in plans}
        self.metric = metric
        self.factor: float | None = None
        self._tensors = tensors
        self.workers = workers
        self.rotation = rotation

    def weights(self, name: str) -> Float32:
        """Return a tensor of the checkpoint, a matrix as `[K inputs, N outputs]`."""
        return as_matrix(name, self._tensors[name])

    def source(self, name: str, codec: SteppedCodec) -> Source:
        """Return what rate control needs of a matrix with a quantisation step."""
        plan = self.plans[name]
        return Source(
            codec,
            plan.options,
            plan.matrix_shape,
            self.metric.powers[name],
            self.metric.unit_steps[name],
            partial(self.weights, name),
            partial(self.metric.cost, name),
        )

    def stored(self, name: str, payload: Payload) -> StoredTensor:
        """Return an encoded tensor."""
        return StoredTensor(name, self.plans[name].shape, payload.codec, payload.data)

    def vector(self, name: str, values: Float32) -> StoredTensor:
        """Encode a bias or LayerNorm parameter `[n]`.

        Its quantisation step is half the one that would be optimal for the size, so that its
        errors do not matter beside those of the matrices.
        """
        plan, step = self.plans[name], None
        if self.factor is not None and name in self.metric.squares:
            mean = float(np.mean(self.metric.squares[name]))
            # If no output depends on the vector, its errors have no known cost: use a tiny step.
            step = self.factor / math.sqrt(mean) / 2 if mean > 0 else 0.0
            step = min(max(step, 1e-6 * float(np.abs(values).max())), 1e30) or 1.0
        return self.stored(name, _encode(plan, values, EncodingJob(plan.options, step=step)))

    def vectors(self) -> Iterator[StoredTensor]:
        """Yield all biases and LayerNorm parameters."""
        for name, plan in self.plans.items():
            if not plan.is_matrix:
                yield self.vector(name, self._tensors[name])

    def matrices(self, names: Sequence[str], rate: float) -> Iterator[StoredTensor]:
        """Yield matrices whose codecs choose their own steps. Free ones get `rate`."""
        plans = [self.plans[name] for name in names]
        encoded = self.workers.map(
            _encode,
            plans,
            (self._values(plan) for plan in plans),
            (self._job(plan, rate) for plan in plans),
        )
        for plan, payload in zip(plans, encoded, strict=True):
            yield self.stored(plan.name, payload)

    def with_step(self, name: str, weights: Float32, cost: ErrorCost, step: float) -> StoredTensor:
        """Encode weights `[K, N]` of a matrix with a quantisation step.

        Args:
            name: its canonical name.
            weights: float32.
            cost: the cost of errors in them.
            step: as `ErrorCost` defines it.
        """
        plan = self.plans[name]
        if not isinstance(plan.codec, SteppedCodec):
            raise ValueError(f"{name} has a codec without steps")
        source = Source.of(plan.codec, plan.options, weights, cost)
        ((_, data),) = encode_all({name: source}, {name: step}, self.workers)
        return self.stored(name, Payload(plan.codec.name, data))

    def with_rate(self, name: str, weights: Float32, cost: ErrorCost, rate: float) -> StoredTensor:
        """Encode weights `[K, N]` of a matrix whose codec chooses its own steps.

        Args:
            name: its canonical name.
            weights: float32.
            cost: the cost of errors in them.
            rate: about the bits per weight, if the options of the matrix give none.
        """
        plan = self.plans[name]
        job = EncodingJob(plan.options, rate, cost)
        (payload,) = self.workers.map(_encode, (plan,), (weights,), (job,))
        return self.stored(name, payload)

    def _job(self, plan: TensorPlan, rate: float) -> EncodingJob:
        cost = self.metric.cost(plan.name) if plan.codec.weighs_errors else None
        return EncodingJob(plan.options, rate, cost)

    def _values(self, plan: TensorPlan) -> Float32:
        tensor = self._tensors[plan.name]
        return tensor if plan.codec.keeps_orientation else as_matrix(plan.name, tensor)


def _encode(plan: TensorPlan, values: Float32, job: EncodingJob) -> Payload:
    """Encode a tensor. An error names the tensor."""
    codec: Codec = plan.codec
    try:
        return codec.encode(values, job)
    except UsageError as error:
        raise UsageError(f"{plan.name}: {error}") from error
