"""Whether a file loses far more than its rates should cost: then something went wrong.

What a rate should cost at most is what plain rounding at that rate would: errors that know
nothing of each other, of the power that rate-distortion theory gives for Gaussian weights. To
second order that costs tr(H) tr(G) / 2 times their variance (metric.py), and error feedback makes
it less. Files of sound models lost at most 4 times as much (docs/results.md, "Every rate
and every size"); `MARGIN` is well above that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.compression.metric import Metric
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.compression.tensor_report import TensorReport
from rbe_cli.runtime.arrays import sum_of_squares

MARGIN = 30.0  # times what plain rounding costs
NOISE = 1e-6  # nats a token: logits rounded to float32 alone may make a divergence of this size


@dataclass(frozen=True)
class Expectation:
    """What a file's rates should cost.

    Attributes:
        most: nats a token on other text; a file that loses more is far off.
        worst: the name of the tensor whose errors cost most; None if no matrix is coded.
    """

    most: float
    worst: str | None

    def is_met(self, kl_divergence: float) -> bool:
        """Whether a measured divergence, which may be NaN, is no larger."""
        return kl_divergence <= self.most


def expect(
    reports: Sequence[TensorReport],
    tensors: Mapping[str, NDArray[np.float32]],
    plans: Sequence[TensorPlan],
    metric: Metric,
) -> Expectation:
    """What the rates of a file's tensors should cost.

    Args:
        reports: of all tensors of the file.
        tensors: of the checkpoint.
        plans: of all tensors.
        metric: of the checkpoint's matrices.
    """
    should, costs = 0.0, {}
    by_name = {plan.name: plan for plan in plans}
    for report in reports:
        if report.name in metric.even_losses:
            power = sum_of_squares(tensors[report.name]) / tensors[report.name].size
            loss = power * metric.even_losses[report.name]  # of errors as large as the weights
            plan = by_name[report.name]
            should += loss * plan.codec.plain_error_power(
                report.bits_per_weight, report.shape, plan.options, report.relative_error
            )
            costs[report.name] = loss * report.relative_error**2
    return Expectation(max(MARGIN * should, NOISE), max(costs, key=costs.__getitem__, default=None))
