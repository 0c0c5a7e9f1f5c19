"""Exponentials and logarithms: close to numpy's, and with the same bits on every CPU."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.algebra.elementary import exp2, exp_in_place, log, log2
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE
from rbe_cli.runtime import native
from rbe_cli.runtime.instruction_sets import available

SETS = available()


@pytest.mark.parametrize(("kind", "error"), [(np.float32, 2e-7), (np.float64, 4e-16)])
@given(st.lists(st.floats(-80, 80), min_size=1, max_size=40))
def test_exponentials(kind, error, numbers):
    values = np.array(numbers, kind)
    found = exp_in_place(values.copy())
    assert np.abs(found / np.exp(values.astype(np.float64)) - 1).max() <= error
    assert found.dtype == kind


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_exponentials_of_all_instruction_sets(kind, monkeypatch):
    rng, found = np.random.default_rng(0), []
    values = np.concatenate([rng.uniform(-90, 90, 999), [0, np.nan, np.inf, -np.inf]]).astype(kind)
    for own in SETS:
        monkeypatch.setattr(native, "chosen", lambda own=own: own)
        found.append(exp_in_place(values.copy()).tobytes())
    assert set(found) == {found[0]}
    ends = np.frombuffer(found[0], kind)[-4:]
    assert ends[0] == 1
    assert np.isnan(ends[1])
    assert ends[2] > 1e38
    assert 0 <= ends[3] < 2e-38


def test_exponentials_of_other_arrays_are_refused():
    for wrong in (np.ones(3, np.float16), np.ones((4, 4))[:, ::2]):
        with pytest.raises(TypeError):
            exp_in_place(wrong)


@given(st.floats(1e-300, 1e300))
def test_logarithms(x):
    assert math.isclose(log(x), math.log(x), rel_tol=5e-16, abs_tol=5e-16)
    assert math.isclose(log2(x), math.log2(x), rel_tol=5e-16, abs_tol=5e-16)


@given(st.floats(-1000, 1000))
def test_powers_of_2(x):
    assert math.isclose(exp2(x), 2.0**x, rel_tol=5e-16)


def test_whole_powers_of_2_are_exact():
    exponents = np.arange(-1022, 1024)
    powers = np.ldexp(1.0, exponents)
    assert np.array_equal(exp2(exponents), powers)
    assert np.array_equal(log2(powers), exponents)
    assert log2(0.0) == log(0.0) == -np.inf
    assert log(1.0) == 0


def test_scales_in_float32_do_not_depend_on_who_computes_them():
    """Decoders compute steps by the platform's exp2: its error of one unit must not matter."""
    for per_octave in (LEVELS_PER_OCTAVE, 32):
        powers = exp2(np.arange(per_octave) / per_octave)
        rounded = powers.astype(np.float32)
        for units in (-4, 4):
            other = powers * (1 + units * np.finfo(np.float64).eps)
            assert np.array_equal(other.astype(np.float32)[1:], rounded[1:])
