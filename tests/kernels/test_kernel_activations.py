import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.kernels import reference

NAMES = sorted(reference.BY_NAME)


def apply(kernel, x):
    out = x.copy()
    kernel(out)
    return out


@pytest.mark.parametrize("name", NAMES)
@given(
    x=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)),
             elements=st.floats(-1e4, 1e4, width=32))
)  # fmt: skip
def test_equals_the_float64_function(fast, name, x):
    expected = apply(reference.BY_NAME[name], x.astype(np.float64))
    actual = apply(fast.activations[name], x)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_extremes_stay_finite(fast, name):
    x = np.array([[-3e38, -1e20, -0.0, 0.0, 1e20, 3e38, -1e-40, 1e-40]], np.float32)
    np.testing.assert_allclose(
        apply(fast.activations[name], x), np.maximum(x, 0), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden(fast, name):
    x = np.array([[np.nan, 1.0]], np.float32)
    assert np.isnan(apply(fast.activations[name], x)[0, 0])
