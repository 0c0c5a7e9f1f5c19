"""Decide what still fits into the time of a benchmark of layers."""

import math
from time import perf_counter

from rbe_cli.bench.operator_names import Op, Variant


class Budget:
    """Count the seconds that are left, and forecast a call from what was timed before.

    Forecasts come from the last layer of the same kind that was timed: they scale with the
    floating-point operations. LayerNorms, which move memory, are a kind of their own.
    """

    def __init__(self, seconds: float | None) -> None:
        """Begin with `seconds` from now on; None for as long as it takes."""
        self._end = math.inf if seconds is None else perf_counter() + seconds
        self._seconds_a_flop: dict[tuple[Variant, bool], float] = {}
        self._seconds_to_make_a_weight = 0.0

    def left(self, parts: int = 1) -> float:
        """Return the seconds left for the first of so many parts; below 0 when there are none."""
        return (self._end - perf_counter()) / parts

    def learn(self, op: Op, variant: Variant, flops: int, seconds: float) -> None:
        """Learn that one call of a layer took so long."""
        self._seconds_a_flop[variant, op is Op.layernorm] = seconds / flops

    def forecast(self, op: Op, variant: Variant, flops: int) -> float:
        """Return the seconds that one call will take; 0 if nothing of its kind was timed yet."""
        return flops * self._seconds_a_flop.get((variant, op is Op.layernorm), 0.0)

    def learn_making(self, weights: int, seconds: float) -> None:
        """Learn that so many random weights took so long to make."""
        self._seconds_to_make_a_weight = seconds / weights

    def forecast_making(self, weights: int) -> float:
        """Return the seconds that so many random weights will take; 0 for the first ones."""
        return weights * self._seconds_to_make_a_weight
