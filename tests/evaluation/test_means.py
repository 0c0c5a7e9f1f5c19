"""Standard errors against plain formulas and against what repeated draws really vary by."""

import math

import numpy as np
import pytest

from rbe_cli.evaluation.means import FEWEST_WINDOWS, Mean, mean_of, unit_of


@pytest.mark.parametrize(("windows", "unit"), [(1, "token"), (4, "token"), (5, "window")])
def test_the_unit_depends_on_the_number_of_windows(windows: int, unit: str) -> None:
    assert unit_of(windows) == unit


@pytest.mark.parametrize("counts", [[7], [2, 5], [1, 1, 3, 2]])
def test_of_few_windows_each_token_is_a_unit(counts: list[int]) -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 0.5])
    found = mean_of(values, np.array(counts))
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(7))


def test_of_windows_of_one_size_it_is_the_error_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=(9, 13)) + np.arange(9)[:, None]
    found = mean_of(values.reshape(-1), np.full(9, 13))
    assert found.error == pytest.approx(values.mean(axis=1).std(ddof=1) / 3)


def test_a_single_prediction_tells_nothing_of_its_error() -> None:
    assert mean_of(np.array([3.5]), np.array([1])) == Mean(3.5, None)


def test_the_error_is_what_repeated_draws_vary_by() -> None:
    """Windows that differ from each other by more than their tokens do, of uneven sizes."""
    rng = np.random.default_rng(1)
    counts = np.resize([3, 20, 8, 15], 40)
    means, errors, as_tokens = [], [], []
    for _ in range(400):
        shared = np.repeat(rng.normal(0, 1, counts.size), counts)
        values = shared + rng.normal(0, 0.5, counts.sum())
        found = mean_of(values, counts)
        means.append(found.value)
        errors.append(found.error)
        as_tokens.append(values.std() / math.sqrt(values.size))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    assert np.mean(as_tokens) < 0.5 * np.std(means)
    assert counts.size >= FEWEST_WINDOWS


def test_the_exponential_keeps_the_relative_error() -> None:
    found = Mean(2.0, 0.001).exp()
    low, high = math.exp(1.999), math.exp(2.001)
    assert found.value == pytest.approx(math.exp(2))
    assert found.error == pytest.approx((high - low) / 2, rel=1e-5)
    assert Mean(2.0, None).exp().error is None
    assert Mean(800.0, 0.1).exp() == Mean(math.inf, math.inf)
