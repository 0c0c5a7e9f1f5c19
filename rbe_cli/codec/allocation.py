"""Shares bits among matrices so that the model's loss is least at a given size.

A matrix quantised with step s alone adds loss_t (s / probe_step_t) ** 2 to the model's KL
divergence and costs about n_t log2(1 / s) bits. The sum of losses at a given number of bits
is least where each matrix loses the same per weight (Lagrange multipliers; reverse
water-filling, Cover and Thomas, section 10.3), which fixes all steps up to one factor.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_OCTAVES = 4.0  # no step moves further than this from the probes' median step ratio


@dataclass(frozen=True)
class Probe:
    """What one matrix did to the model when it alone was quantised.

    Attributes:
        weights: number of weights, n_t.
        step: the quantiser's step of the probe.
        nbytes: the encoded matrix's.
        loss: KL divergence it caused, nats a token.
    """

    weights: int
    step: float
    nbytes: int
    loss: float


def relative_steps(probes: Mapping[str, Probe]) -> dict[str, float]:
    """Steps of least total loss, up to one common factor."""
    octaves = {
        name: 0.5 * math.log2(probe.weights / max(probe.loss, 1e-12))
        for name, probe in probes.items()
    }
    middle = sorted(octaves.values())[len(octaves) // 2]
    return {
        name: probes[name].step * 2.0 ** min(max(value - middle, -_OCTAVES), _OCTAVES)
        for name, value in octaves.items()
    }


def solve_scale(size: Callable[[float], float], target: float, tolerance: float) -> float:
    """The scale s at which `size(s)`, which falls with s, is `target`, by secants in log2 s.

    Args:
        size: bits a weight when all steps are multiplied by s.
        target: bits a weight.
        tolerance: stop as soon as the size is this close, in bits a weight.
    """
    octave, slope = 0.0, -1.0  # one bit an octave, the law at high rates
    value = size(1.0)
    for _ in range(12):
        if abs(value - target) <= tolerance:
            break
        move = min(max((target - value) / slope, -3.0), 3.0)
        new_value = size(2.0 ** (octave + move))
        slope = min((new_value - value) / move, -0.1)
        octave, value = octave + move, new_value
    return 2.0**octave
