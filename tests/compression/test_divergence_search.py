"""Check the search for the smallest file at a KL divergence, on files that are only numbers."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.compression.divergence_search import store_at_divergence
from rbe_cli.errors import UsageError


class Files:
    """Makes files whose KL divergence falls by a factor for each bit."""

    def __init__(self, at_two_bits=0.03, per_bit=5.0, least=1.0):
        self.rates = []
        self._at_two_bits, self._per_bit, self._least = at_two_bits, per_bit, least

    def store(self, bits):
        if bits < self._least:
            raise UsageError(f"{bits} cannot be reached")
        self.rates.append(bits)
        return [bits]

    def measure(self, stored):
        return SimpleNamespace(
            kl_divergence=self._at_two_bits * self._per_bit ** (2 - stored[0]), bits=stored[0]
        )

    def found(self, target, start):
        return store_at_divergence(target, start, self.store, self.measure)[1]


@given(
    at_two_bits=st.floats(0.01, 0.1),
    per_bit=st.floats(3, 6),
    bits=st.floats(1.3, 6),
    start=st.floats(1, 8),
)
def test_the_target_is_met_by_a_file_that_is_hardly_larger_than_need_be(
    at_two_bits, per_bit, bits, start
):
    files = Files(at_two_bits, per_bit)
    target = at_two_bits * per_bit ** (2 - bits)
    found = files.found(target, start)
    assert 0.89 * target <= found.kl_divergence <= target
    assert len(files.rates) <= 6


def test_a_file_that_meets_the_target_is_kept_if_fewer_bits_cannot_be_reached():
    files = Files(least=1.5)
    assert files.found(3.0, 2.0).bits == 2.0
    assert files.rates == [2.0]


def test_the_search_climbs_to_a_rate_that_can_be_reached():
    files = Files(least=1.5)
    assert files.found(3.0, 1.0).bits == 1.25**2
    assert files.found(0.03, 1.0).kl_divergence <= 0.03


def test_no_rate_is_tried_twice():
    files = Files()
    assert files.found(3.0, 2.0).bits == 1.0
    assert files.rates == [2.0, 1.0]


def test_the_last_file_is_returned_if_none_meets_the_target():
    files = Files(per_bit=1.5)
    assert files.found(1e-9, 4.0).bits == 12.0


def test_a_model_for_which_no_file_can_be_made_is_refused():
    with pytest.raises(UsageError, match="cannot be reached"):
        Files(least=100.0).found(0.01, 2.0)
