"""Find the factor of all quantisation steps that gives a wanted size."""

from collections.abc import Callable

from rbe_cli.algebra.elementary import exp2


def solve_scale(size: Callable[[float], float], target: float, tolerance: float) -> float:
    """Return the scale s at which `size(s)` is `target`, by the secant method in log2 s.

    Args:
        size: returns the bits per weight if all steps are multiplied by s. It falls with s.
        target: the wanted bits per weight.
        tolerance: the search stops if the size is this close, in bits per weight.

    Returns:
        The scale whose size is nearest to the target, after at most 12 attempts.
    """
    octave, slope = 0.0, -1.0  # at high rates, doubling s saves one bit per weight
    value = size(1.0)
    nearest, best = abs(value - target), octave
    for _ in range(12):
        if nearest <= tolerance:
            break
        move = min(max((target - value) / slope, -3.0), 3.0)
        new_value = size(float(exp2(octave + move)))
        # Sizes change in small jumps, so the slope over a short move is limited to a usual range.
        slope = min(max((new_value - value) / move, -1.0), -0.3)
        octave, value = octave + move, new_value
        if abs(value - target) < nearest:
            nearest, best = abs(value - target), octave
    return float(exp2(best))
