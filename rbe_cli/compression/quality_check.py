"""Check that a file does not lose far more quality than its bits per weight should cost.

The expected cost of a rate is that of plain rounding at this rate: independent errors with the
power that rate-distortion theory gives for Gaussian weights. To second order they cost
tr(H) tr(G) / 2 times their variance (metric.py), and error feedback lowers that. The files of
sound models lost at most 4 times the expected cost (docs/results.md, "Every rate and every
size"). `MARGIN` is well above that, so that only a fault exceeds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rbe_cli.compression.metric import Metric
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.compression.tensor_report import TensorReport

MARGIN = 30.0  # times the cost of plain rounding
NOISE = 1e-6  # nats per token: rounding the logits to float32 can give such a divergence


@dataclass(frozen=True)
class Expectation:
    """The KL divergence that the bits per weight of a file should cost at most.

    Attributes:
        most: the largest plausible KL divergence on other text, in nats per token.
        worst: the name of the tensor whose errors cost most, or None if no matrix is lossy.
    """

    most: float
    worst: str | None

    def is_met(self, kl_divergence: float) -> bool:
        """Return whether a measured divergence is at most `most`. NaN is not."""
        return kl_divergence <= self.most


def expect(
    reports: Sequence[TensorReport],
    plans: Sequence[TensorPlan],
    metric: Metric,
) -> Expectation:
    """Compute what the bits per weight of a file's tensors should cost at most.

    Args:
        reports: the reports on all tensors of the file.
        plans: the plans of all tensors.
        metric: the cost of errors in the checkpoint's matrices.
    """
    should, costs = 0.0, {}
    by_name = {plan.name: plan for plan in plans}
    for report in reports:
        if report.name in metric.even_losses:
            # The cost of errors as large as the weights:
            loss = metric.powers[report.name] * metric.even_losses[report.name]
            plan = by_name[report.name]
            should += loss * plan.codec.plain_error_power(
                report.bits_per_weight, report.shape, plan.options, report.relative_error
            )
            costs[report.name] = loss * report.relative_error**2
    return Expectation(max(MARGIN * should, NOISE), max(costs, key=costs.__getitem__, default=None))
