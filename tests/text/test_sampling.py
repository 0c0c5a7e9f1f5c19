"""Each filter against its definition, the composed sampler, and logits at their extremes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rbe_cli.errors import RbeError
from rbe_cli.text import sampling
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.row_random import RowRandom

Float32 = NDArray[np.float32]

untimed = settings(deadline=None)

# Few distinct values make ties likely; the others reach both ends of float32, -inf included.
finite = st.integers(-3, 3).map(float) | st.floats(width=32, allow_nan=False, allow_infinity=False)
sizes = st.integers(1, 200)
finite_logits = arrays(np.float32, sizes, elements=finite)
any_logits = arrays(np.float32, sizes, elements=finite | st.just(-np.inf))


def by_likelihood(logits: Float32) -> list[int]:
    """Ids from the likeliest down, the lowest first among equals."""
    return sorted(range(logits.size), key=lambda i: (-logits[i], i))


@untimed
@given(logits=any_logits, k=st.integers(1, 250))
def test_top_k_keeps_the_k_likeliest(logits: Float32, k: int) -> None:
    assert sampling.top_k(logits, k).tolist() == sorted(by_likelihood(logits)[:k])


@pytest.mark.parametrize("k", [1, 40, 3000, 5000])
def test_top_k_of_a_real_vocabulary(k: int) -> None:
    logits = np.random.default_rng(0).standard_normal(50257, dtype=np.float32)
    assert sampling.top_k(logits, k).tolist() == sorted(by_likelihood(logits)[:k])


@untimed
@given(logits=any_logits, p=st.floats(1e-6, 1, exclude_max=True))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: Float32, p: float) -> None:
    assume(logits.max() > -np.inf)
    kept = sampling.top_p(logits, p)
    probabilities = sampling.softmax(logits)
    assert kept.tolist() == sorted(by_likelihood(logits)[: kept.size])
    assert probabilities[kept].sum() >= p - 1e-12
    assert probabilities[kept].sum() - probabilities[kept].min() < p + 1e-12


def test_top_p_of_equal_logits_keeps_the_lowest_ids() -> None:
    assert sampling.top_p(np.zeros(10, np.float32), 0.25).tolist() == [0, 1, 2]


@untimed
@given(
    logits=arrays(np.float32, sizes, elements=st.floats(-50, 50, width=32) | st.just(-np.inf)),
    p=st.floats(1e-6, 1),
)
def test_min_p_keeps_what_is_p_times_as_likely_as_the_best(logits: Float32, p: float) -> None:
    assume(logits.max() > -np.inf)
    probabilities = sampling.softmax(logits)
    relative = probabilities / probabilities.max()
    kept = np.isin(np.arange(logits.size), sampling.min_p(logits, p))
    assert kept[relative > p * (1 + 1e-5)].all()
    assert not kept[relative < p * (1 - 1e-5)].any()
    assert kept[logits.argmax()]


def test_min_p_of_extreme_logits_keeps_the_best() -> None:
    logits = np.array([-3e38, 3e38, -np.inf, 3e38], np.float32)
    assert sampling.min_p(logits, 1.0).tolist() == [1, 3]
    assert sampling.min_p(logits, 1e-300).tolist() == [1, 3]


@untimed
@given(logits=any_logits)
def test_softmax_is_a_distribution(logits: Float32) -> None:
    assume(logits.max() > -np.inf)
    probabilities = sampling.softmax(logits)
    assert abs(probabilities.sum() - 1) < 1e-12
    assert (probabilities[logits == -np.inf] == 0).all()
    assert probabilities[logits.argmax()] == probabilities.max()


def test_softmax_of_one_hot_and_equal_logits() -> None:
    one_hot = np.full(5, -np.inf, np.float32)
    one_hot[3] = -1e38
    assert sampling.softmax(one_hot).tolist() == [0, 0, 0, 1, 0]
    assert sampling.softmax(np.full(4, 3e38, np.float32)).tolist() == [0.25] * 4


def test_temperature_divides_differences() -> None:
    logits = np.array([1, 3, 2], np.float32)
    assert sampling.apply_temperature(logits, 0.5).tolist() == [-4, 0, -2]
    assert sampling.apply_temperature(logits, 1e-320).tolist() == [-np.inf, 0, -np.inf]


def test_repetition_penalty_lowers_what_was_seen_once() -> None:
    logits = np.array([2, -2, 2, 0], np.float32)
    penalized = sampling.penalize_repetition(logits, [0, 1, 0, 3], 4.0)
    assert penalized.tolist() == [0.5, -8, 2, 0]
    assert logits.tolist() == [2, -2, 2, 0]  # the model's own array stays as it was


@untimed
@given(weights=arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1)))
def test_sample_draws_only_what_is_possible(weights: NDArray[np.float64]) -> None:
    assume(weights.sum() > 0)
    rng = RowRandom(0, 0)
    draws = {sampling.sample(weights / weights.sum(), rng) for _ in range(20)}
    assert all(weights[token] > 0 for token in draws)


def test_sample_follows_the_distribution() -> None:
    probabilities = np.array([0.5, 0.0, 0.3, 0.2])
    rng = RowRandom(1, 0)
    draws = [sampling.sample(probabilities, rng) for _ in range(20_000)]
    frequencies = np.bincount(draws, minlength=4) / len(draws)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.015)  # 4 standard deviations


@untimed
@given(logits=finite_logits, seed=st.integers(0, 9))
def test_greedy_temperature_zero_and_top_k_one_agree(logits: Float32, seed: int) -> None:
    choices = {
        sampling.make_sampler(options)(logits, [0], RowRandom(seed, 0))
        for options in (
            GenerationOptions(greedy=True),
            GenerationOptions(temperature=0),
            GenerationOptions(temperature=1, top_k=1),
        )
    }
    assert choices == {int(logits.argmax())}


@untimed
@given(
    logits=any_logits,
    k=st.integers(0, 10),
    p=st.floats(0.01, 1),
    minimum=st.floats(0, 1),
    temperature=st.floats(1e-6, 100),
    penalty=st.floats(0.1, 10),
)
def test_any_options_choose_a_possible_token(
    logits: Float32, k: int, p: float, minimum: float, temperature: float, penalty: float
) -> None:
    assume(1e30 > logits.max() > -1e30)  # penalising more than that leaves float32
    options = GenerationOptions(
        temperature=temperature, top_k=k, top_p=p, min_p=minimum, repetition_penalty=penalty
    )
    token = sampling.make_sampler(options)(logits, [0], RowRandom(0, 0))
    assert logits[token] > -np.inf


def test_filters_judge_the_distribution_before_the_temperature() -> None:
    """At temperature 100 the tail would be likely, had top-p not removed it at temperature 1."""
    logits = np.array([5, 5, 0, 0, 0, 0], np.float32)
    sampler = sampling.make_sampler(GenerationOptions(temperature=100, top_k=0, top_p=0.9))
    rng = RowRandom(0, 0)
    assert {sampler(logits, [0], rng) for _ in range(50)} == {0, 1}


def test_the_penalty_sees_its_window_and_comes_first() -> None:
    logits = np.array([3, 2.9, 0], np.float32)
    options = GenerationOptions(greedy=True, repetition_penalty=2, repetition_window=2)
    sampler, rng = sampling.make_sampler(options), RowRandom(0, 0)
    assert sampler(logits, [2, 0], rng) == 1
    assert sampler(logits, [0, 2, 2], rng) == 0


@pytest.mark.parametrize("options", [GenerationOptions(), GenerationOptions(greedy=True)])
@pytest.mark.parametrize("bad", [[0, np.nan, 1], [np.nan] * 3, [0, np.inf, 1], [-np.inf] * 3])
def test_logits_that_are_not_finite_are_an_error(
    options: GenerationOptions, bad: list[float]
) -> None:
    sampler = sampling.make_sampler(options)
    with pytest.raises(RbeError, match="logits are not finite"):
        sampler(np.array(bad, np.float32), [0], RowRandom(0, 0))


@untimed
@given(
    weights=arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 700)),
        elements=st.sampled_from([0, 1e-30, 0.25, 1, 7]),
    ),
    seed=st.integers(0, 9),
)
def test_rows_draw_only_what_is_possible(weights: NDArray[np.float32], seed: int) -> None:
    assume((weights.sum(axis=1) > 0).all())
    drawn = sampling.draw_rows(weights, np.random.default_rng(seed))
    assert (weights[np.arange(len(weights)), drawn] > 0).all()


@pytest.mark.parametrize("size", [3, 255, 256, 257, 1000])
def test_rows_follow_their_distribution(size: int) -> None:
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=size).astype(np.float32)
    drawn = sampling.draw_rows(np.tile(weights, (20_000, 1)), rng)
    expected = 20_000 * weights.astype(np.float64) / weights.sum(dtype=np.float64)
    counts = np.bincount(drawn, minlength=size)
    chi_squared = float(np.sum((counts - expected) ** 2 / expected))
    assert abs(chi_squared - size) < 5 * np.sqrt(2 * size) + 5


def test_tokens_of_rows_are_drawn_by_the_softmax_of_their_logits() -> None:
    logits = np.array([-np.inf, 80.0, 81.0, 79.0], np.float32)
    drawn = sampling.sample_rows(np.tile(logits, (20_000, 1)), np.random.default_rng(0))
    frequencies = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(frequencies, sampling.softmax(logits), atol=0.015)


def test_rows_that_are_no_numbers_draw_some_token() -> None:
    logits = np.array([[np.nan, 1, 2], [np.inf, np.inf, 0]], np.float32)
    drawn = sampling.sample_rows(logits, np.random.default_rng(0))
    assert ((drawn >= 0) & (drawn < 3)).all()
