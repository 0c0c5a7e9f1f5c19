from types import SimpleNamespace

import numpy as np
import pytest

from rbe_cli.compression.step_pacing import StepPacing, plan_steps

SIZES = {"a": 40_000, "b": 20_000, "c": 20_000, "d": 40_000}  # weights
WEIGHTS = sum(SIZES.values())
FILE = SimpleNamespace(bits_per_weight=lambda sizes: 8 * sum(sizes.values()) / WEIGHTS)


def real(name, step):
    """Return the bytes of a matrix, of which an octave of the step takes a bit a weight."""
    return int(SIZES[name] * (4 - np.log2(step)) / 8)


class Forecast:
    """Forecasts sizes that are wrong by a factor."""

    def __init__(self, factor=1.0):
        self._factor = factor

    def bytes(self, steps):
        return {name: int(self._factor * real(name, step)) for name, step in steps.items()}


def pacing(factor=1.0, own=None, target=4.0, most=np.inf, step=1.0):
    sources = {name: SimpleNamespace(size=size) for name, size in SIZES.items()}
    planned = plan_steps(dict.fromkeys(SIZES, step), sources, Forecast(factor))
    bytes_of_own = {name: bits * SIZES[name] / 8 for name, bits in (own or {}).items()}
    return StepPacing(planned, bytes_of_own, target, FILE, most)


def encoded(paced, sizes=real):
    """Encode all matrices; return how often each was, and the steps."""
    tries = {}
    for name in SIZES:
        tries[name], accepted = 0, False
        while not accepted:
            accepted = paced.accepts(name, sizes(name, paced.step(name)))
            tries[name] += 1
    return tries, paced.steps


def test_a_right_forecast_keeps_the_steps():
    paced = pacing()
    tries, steps = encoded(paced)
    assert set(tries.values()) == {1}
    assert steps == pytest.approx(dict.fromkeys(SIZES, 1.0), rel=1e-3)
    assert paced.bits_per_weight == pytest.approx(4, rel=0.002)


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_later_matrices_make_up_for_wrong_forecasts(factor):
    paced = pacing(factor, step=2.0 ** (4 - 4 * factor))  # which the forecast thinks right
    tries, steps = encoded(paced)
    assert paced.bits_per_weight == pytest.approx(4, rel=0.002)
    assert [tries[name] for name in "abc"] == [1, 1, 1]
    assert tries["d"] <= 3
    changes = np.log2([steps[name] for name in SIZES])
    assert np.abs(changes).max() < 0.5


def test_own_rates_are_met_and_the_others_keep_to_the_target():
    paced = pacing(own={"b": 6.0}, step=1.0, target=4.0)
    tries, steps = encoded(paced)
    assert real("b", steps["b"]) == pytest.approx(6 * SIZES["b"] / 8, rel=0.002)
    assert 2 <= tries["b"] <= 3
    assert steps["a"] == pytest.approx(1.0, rel=0.01)  # it was encoded before
    assert steps["c"] > 1.2
    assert paced.bits_per_weight == pytest.approx(4, rel=0.002)


def test_the_largest_size_is_kept_to():
    paced = pacing(target=3.992, most=4.0, step=2.0**0.008)
    encoded(paced, lambda name, step: real(name, step) + 150 * (name == "d"))
    assert paced.bits_per_weight <= 4.0


def test_what_was_encoded_before_counts():
    """A resumed run gives the same steps to what is left."""
    whole, resumed = pacing(1.02), pacing(1.02)
    for name in "abc":
        size = real(name, whole.step(name))
        assert whole.accepts(name, size)
        resumed.step(name)
        resumed.keep(name, size)
    assert resumed.step("d") == whole.step("d")
    assert resumed.sizes == whole.sizes


def test_steps_that_change_no_size_are_left_alone():
    paced = pacing(target=9.0, most=9.0)
    _, steps = encoded(paced, lambda name, step: 1000)
    assert all(0.01 < step <= 1.0 for step in steps.values())
