import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.allocation import Probe, relative_steps, solve_scale

PROBES = st.lists(
    st.builds(
        Probe,
        weights=st.integers(1_000, 5_000),
        step=st.floats(1e-3, 10.0),
        nbytes=st.just(0),
        loss=st.floats(1e-3, 0.05),
    ),
    min_size=1,
    max_size=12,
).map(lambda probes: {str(number): probe for number, probe in enumerate(probes)})


def losses(probes, steps):
    """What each matrix adds to the model's divergence at these steps, by the law assumed."""
    return {name: p.loss * (steps[name] / p.step) ** 2 for name, p in probes.items()}


@given(PROBES)
def test_each_matrix_loses_the_same_per_weight(probes):
    lost = losses(probes, relative_steps(probes))
    per_weight = np.array([lost[name] / probe.weights for name, probe in probes.items()])
    np.testing.assert_allclose(per_weight, per_weight[0], rtol=1e-9)


@given(PROBES, st.integers(0, 99))
def test_no_other_steps_of_the_same_size_lose_less(probes, seed):
    steps = relative_steps(probes)
    octaves = np.random.default_rng(seed).uniform(-1, 1, len(probes))
    weights = np.array([probe.weights for probe in probes.values()])
    octaves -= np.average(octaves, weights=weights)  # the file's bits stay the same
    others = {name: steps[name] * 2.0**o for name, o in zip(steps, octaves, strict=True)}
    least = sum(losses(probes, steps).values())
    assert sum(losses(probes, others).values()) >= least * (1 - 1e-9)


@pytest.mark.parametrize("loss", [0.0, -1e-9, 1e-300, 1e9])
def test_an_outlier_moves_no_step_out_of_reach(loss):
    """A loss that was measured as nothing, or as ruin, says little about other steps."""
    probes = {name: Probe(1000, 0.5, 0, 1e-3) for name in "abc"}
    steps = relative_steps(probes | {"outlier": Probe(1000, 0.5, 0, loss)})
    assert steps["a"] == steps["b"] == steps["c"]
    assert 1 / 32 <= steps["outlier"] / steps["a"] <= 32


def uniform_law(scale, rate):
    """Bits a weight at high rates."""
    return rate - math.log2(scale)


def gaussian_law(scale, rate):
    """Bits a weight of Gaussian weights, down to none."""
    return 0.5 * math.log2(1 + (2**rate / scale) ** 2)


@given(
    law=st.sampled_from([uniform_law, gaussian_law]),
    rate=st.floats(1, 9),
    overhead=st.floats(0, 0.5),
    target=st.floats(1, 9),
    tolerance=st.sampled_from([0.1, 1e-2, 1e-3]),
)
def test_the_scale_gives_the_size_asked_for(law, rate, overhead, target, tolerance):
    tried = []

    def size(scale):
        tried.append(scale)
        return overhead + law(scale, rate)

    found = solve_scale(size, target, tolerance)
    assert abs(overhead + law(found, rate) - target) <= tolerance
    assert len(tried) <= 13


def test_a_size_that_fits_already_is_left_alone():
    assert solve_scale(lambda scale: 4.0, 4.0, 0.0) == 1.0


def test_a_size_that_cannot_be_reached_ends_the_search():
    tried = []

    def size(scale):
        tried.append(scale)
        return max(2.0, 4.0 - math.log2(scale))

    assert solve_scale(size, 1.0, 1e-3) > 4.0
    assert len(tried) <= 13
    assert all(map(math.isfinite, tried))
