import math

import numpy as np
import pytest
import xxhash

from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    ESCAPE_BITS,
    LEVELS,
    LEVELS_PER_OCTAVE,
    MIN_LEVEL,
    PROBABILITY_BITS,
    SYMBOL_OFFSET,
    SYMBOLS,
    entropy_tables,
    level_shift,
)

TOTAL = 2**PROBABILITY_BITS
TABLES = entropy_tables()
FREQUENCY = TABLES.frequency.astype(np.int64)  # [levels, z, symbols]


def test_every_table_shares_out_all_slots():
    np.testing.assert_array_equal(FREQUENCY.sum(axis=-1), np.full((LEVELS, 2), TOTAL))


def test_cumulative_frequencies_are_exclusive_prefix_sums():
    np.testing.assert_array_equal(TABLES.cumulative[..., 0], 0)
    np.testing.assert_array_equal(
        TABLES.cumulative[..., 1:], np.cumsum(FREQUENCY, axis=-1)[..., :-1]
    )


def test_each_slot_belongs_to_the_symbol_whose_range_it_lies_in():
    assert TABLES.slots.shape == (LEVELS, 2, TOTAL)
    symbol = (((TABLES.slots >> 12 & 255) + SYMBOL_OFFSET) & 255).astype(np.int64)
    assert symbol.max() < SYMBOLS
    start = np.take_along_axis(TABLES.cumulative.astype(np.int64), symbol, -1)
    frequency = np.take_along_axis(FREQUENCY, symbol, -1)
    slots = np.arange(TOTAL)
    assert (start <= slots).all()
    assert (slots < start + frequency).all()
    np.testing.assert_array_equal(TABLES.slots >> 20, frequency)
    np.testing.assert_array_equal(TABLES.slots & 4095, slots - start)


def test_every_integer_can_be_coded():
    assert (FREQUENCY[..., ESCAPE] > 0).all()
    assert np.isfinite(TABLES.bits).all()


def test_a_symbol_is_charged_its_information():
    escape = ESCAPE_BITS - np.log2(FREQUENCY[..., ESCAPE:] / TOTAL)
    with np.errstate(divide="ignore"):
        information = -np.log2(FREQUENCY / TOTAL) + TABLES.shift[:, None, None]
    information[..., ESCAPE] = np.inf  # it pays for its payload
    np.testing.assert_allclose(TABLES.bits, np.minimum(information, escape), rtol=1e-6)


def test_shift_is_that_of_the_level():
    assert TABLES.shift.tolist() == [level_shift(MIN_LEVEL + i) for i in range(LEVELS)]


@pytest.mark.parametrize("z", [0, 1])
@pytest.mark.parametrize("sigma", [0.25, 0.5, 1.0, 3.0, 20.0, 300.0])
def test_gaussian_integers_cost_hardly_more_than_their_entropy(sigma, z):
    level = round(LEVELS_PER_OCTAVE * math.log2(sigma)) - MIN_LEVEL
    q = np.arange(-int(4 * sigma) - 4, int(4 * sigma) + 4)
    edges = np.append(2 * q, 2 * q[-1] + 2) + z - 1  # of the cells of n = 2 q + z
    probability = np.diff([0.5 * math.erf(edge / (sigma * math.sqrt(2))) for edge in edges])
    symbol = (q >> TABLES.shift[level]) + SYMBOL_OFFSET
    symbol = np.where((symbol >= 0) & (symbol < ESCAPE), symbol, ESCAPE)
    seen = probability > 0
    entropy = -np.sum(probability[seen] * np.log2(probability[seen]))
    cost = np.sum(probability * TABLES.bits[level, z, symbol])
    assert entropy <= cost < entropy + 0.03


def test_tables_are_those_that_files_were_written_with():
    """Other tables would decode old files to other weights: a change needs a new codec version."""
    tables = TABLES.frequency.astype("<u2").tobytes() + TABLES.shift.astype("<i8").tobytes()
    assert xxhash.xxh3_64_hexdigest(tables) == "42910bac35688f5e"


def erf_by_series(x):
    """The series of docs/FORMAT.md, section 7."""
    if abs(x) > 6:
        return math.copysign(1.0, x)
    term = total = x
    n = 0
    while abs(term) > 1e-17 * abs(total):
        n += 1
        term *= 2 * x * x / (2 * n + 1)
        total += term
    return 2 / math.sqrt(math.pi) * math.exp(-x * x) * total


@pytest.mark.parametrize("error", [0.0, 1e-8], ids=["exact", "errs"])
def test_the_tables_do_not_depend_on_the_last_digits_of_erf(error):
    """As docs/FORMAT.md says; the errors have the signs that move frequencies most."""
    for level in range(MIN_LEVEL, MIN_LEVEL + LEVELS):
        sigma, shift = 2.0 ** (level / LEVELS_PER_OCTAVE), level_shift(level)
        for z in (0, 1):
            edges = [(i - 32) * 2 ** (shift + 1) + z - 1 for i in range(SYMBOLS)]
            below = [
                0.5
                + 0.485 * (erf_by_series(x / (sigma * math.sqrt(2))) + error * (-1) ** i)
                + 0.015 * (erf_by_series(x / (1.8 * sigma * math.sqrt(2))) + error * (-1) ** i)
                for i, x in enumerate(edges)
            ]
            found = [round(TOTAL * (below[i + 1] - below[i])) for i in range(ESCAPE)] + [1]
            found[found.index(max(found))] += TOTAL - sum(found)
            assert found == FREQUENCY[level - MIN_LEVEL, z].tolist()
