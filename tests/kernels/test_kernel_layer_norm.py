import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels import reference


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 9),
    width=st.integers(1, 200),
    spread=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 10.0]),
)
def test_equals_the_float64_function(fast, seed, tokens, width, spread, offset):
    rng = np.random.default_rng(seed)
    x = (spread * (rng.standard_normal((tokens, width)) + offset)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, width), np.float32)
    out, expected = np.empty_like(x), np.empty(x.shape)
    fast.layer_norm(x, gamma, beta, 1e-5, out)
    reference.layer_norm(x.astype(np.float64), gamma, beta, 1e-5, expected)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_equal_inputs_give_beta(fast):
    x, out = np.full((2, 70), 3.5, np.float32), np.empty((2, 70), np.float32)
    beta = np.linspace(-1, 1, 70, dtype=np.float32)
    fast.layer_norm(x, np.ones(70, np.float32), beta, 1e-5, out)
    np.testing.assert_array_equal(out, np.stack([beta, beta]))


def test_input_is_left_alone(fast):
    x = np.random.default_rng(0).standard_normal((3, 20), np.float32)
    before, one = x.copy(), np.ones(20, np.float32)
    fast.layer_norm(x, one, one, 1e-5, np.empty_like(x))
    np.testing.assert_array_equal(x, before)
