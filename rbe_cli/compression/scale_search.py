"""Finds the steps that give a size."""

from collections.abc import Callable


def solve_scale(size: Callable[[float], float], target: float, tolerance: float) -> float:
    """The scale s at which `size(s)`, which falls with s, is `target`, by secants in log2 s.

    Args:
        size: bits a weight when all steps are multiplied by s.
        target: bits a weight.
        tolerance: stop as soon as the size is this close, in bits a weight.
    """
    octave, slope = 0.0, -1.0  # one bit an octave, the law at high rates
    value = size(1.0)
    nearest, best = abs(value - target), octave
    for _ in range(12):
        if nearest <= tolerance:
            break
        move = min(max((target - value) / slope, -3.0), 3.0)
        new_value = size(2.0 ** (octave + move))
        # Sizes come in small steps, over which the slope means nothing.
        slope = min(max((new_value - value) / move, -1.0), -0.3)
        octave, value = octave + move, new_value
        if abs(value - target) < nearest:
            nearest, best = abs(value - target), octave
    return 2.0**best
