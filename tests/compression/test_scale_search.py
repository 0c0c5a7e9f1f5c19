import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.compression.scale_search import solve_scale

TARGETS = st.floats(1, 9)


def uniform_law(scale, rate):
    """Return the bits per weight at high rates."""
    return rate - math.log2(scale)


def gaussian_law(scale, rate):
    """Return the bits per weight of Gaussian weights, down to 0."""
    return 0.5 * math.log2(1 + (2**rate / scale) ** 2)


def search(size, target, tolerance):
    """Return (scale, the sizes that were tried)."""
    tried = {}

    def remember(scale):
        tried[scale] = size(scale)
        return tried[scale]

    return solve_scale(remember, target, tolerance), tried


@given(
    law=st.sampled_from([uniform_law, gaussian_law]),
    rate=st.floats(1, 9),
    overhead=st.floats(0, 0.5),
    target=TARGETS,
    tolerance=st.sampled_from([0.1, 1e-2, 1e-3]),
)
def test_the_scale_gives_the_size_asked_for(law, rate, overhead, target, tolerance):
    found, tried = search(lambda scale: overhead + law(scale, rate), target, tolerance)
    assert abs(tried[found] - target) <= tolerance
    assert len(tried) <= 13


@given(stair=st.sampled_from([0.01, 0.1, 0.5]), rate=st.floats(1, 9), target=TARGETS)
def test_of_a_staircase_the_nearest_point_tried_is_taken(stair, rate, target):
    def size(scale):
        return stair * round(gaussian_law(scale, rate) / stair)

    found, tried = search(size, target, 0.0)
    distance = abs(tried[found] - target)
    assert distance == min(abs(value - target) for value in tried.values())
    assert distance <= stair  # of one side or the other of the target
    assert len(tried) <= 13


def test_a_size_that_fits_already_is_left_alone():
    assert search(lambda scale: 4.0, 4.0, 0.0) == (1.0, {1.0: 4.0})


def test_a_size_that_cannot_be_reached_ends_the_search():
    found, tried = search(lambda scale: max(2.0, 4.0 - math.log2(scale)), 1.0, 1e-3)
    assert tried[found] == pytest.approx(2.0)
    assert len(tried) <= 13
    assert all(map(math.isfinite, tried))
