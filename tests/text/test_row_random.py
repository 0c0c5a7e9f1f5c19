"""The random numbers of rows: those of numpy, and others for each row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.text.row_random import RowRandom

words = st.integers(0, 2**64 - 1)


@given(seed=words, row=words)
def test_the_numbers_are_those_of_numpy(seed: int, row: int) -> None:
    expected = np.random.Generator(np.random.Philox(key=np.array([seed, row], np.uint64)))
    rng = RowRandom(seed, row)
    assert [rng.random() for _ in range(9)] == expected.random(9).tolist()


@pytest.mark.parametrize("drawn", [2**64 - 2, 2**128 - 2, 2**192 - 2])
def test_a_counter_carries_over_to_its_next_word(drawn: int) -> None:
    philox = np.random.Philox(key=np.array([1, 2], np.uint64), counter=drawn)
    rng = RowRandom(1, 2)
    rng._counter = drawn
    expected = np.random.Generator(philox).random(9).tolist()
    assert [rng.random() for _ in range(9)] == expected


def test_each_seed_and_row_has_its_own_numbers() -> None:
    seeds = (0, 1, 2**64 - 1)
    draws = {(seed, row): RowRandom(seed, row).random() for seed in seeds for row in (0, 1)}
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 1] == RowRandom(1, 1).random()
    assert draws[0, 0] == 0.011546754286331562  # numpy promises its stream: seeds stay valid
