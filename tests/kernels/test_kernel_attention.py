from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.attention import attention_call


def with_team(team):
    """The kernels' functions, with the instruction set of a team."""
    return SimpleNamespace(attention=partial(attention_call.attention, team))


def attend(kernels, qkv, cache, rows, starts, scale, mask=None):
    """(output, keys, values) with a copy of the cache."""
    keys, values = cache.copy()
    out = np.full((*qkv.shape[:2], qkv.shape[2] // 3), np.nan, qkv.dtype)
    kernels.attention(qkv, keys, values, rows, starts, scale, out, mask)
    return out, keys, values


def random_case(rng, batch, seq, heads, head_dim, past):
    qkv = rng.standard_normal((batch, seq, 3 * heads * head_dim), np.float32)
    cache = rng.standard_normal((2, batch + 1, heads, past + seq + 2, head_dim), np.float32)
    rows = rng.permutation(batch + 1)[:batch]
    return qkv, cache, rows, rng.integers(0, past + 1, batch)


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    seq=st.integers(1, 20),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 70),
    past=st.integers(0, 30),
    scale=st.sampled_from([0.01, 0.125, 1.0, 30.0]),
)
def test_equals_the_float64_twin(team, seed, batch, seq, heads, head_dim, past, scale):
    rng = np.random.default_rng(seed)
    qkv, cache, rows, starts = random_case(rng, batch, seq, heads, head_dim, past)
    out, keys, values = attend(with_team(team), qkv, cache, rows, starts, scale)
    exact = attend(
        numpy_twins, qkv.astype(np.float64), cache.astype(np.float64), rows, starts, scale
    )
    # Rounding errors of the scores, which a large scale makes large, are relative in softmax.
    np.testing.assert_allclose(out, exact[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(keys, exact[1].astype(np.float32))
    np.testing.assert_array_equal(values, exact[2].astype(np.float32))


@pytest.mark.parametrize("kernels", ["fast", "reference"])
def test_what_is_masked_counts_for_nothing(fast, kernels):
    """As if it had scores of minus infinity; who may see nothing gets zeros."""
    rng, table = np.random.default_rng(5), fast if kernels == "fast" else numpy_twins
    qkv, cache, rows, starts = random_case(rng, 2, 6, 3, 5, 4)
    length = int(starts.max()) + 6
    mask = rng.random((2, 3, 6, length)) < 0.5
    mask[0, :, 2] = False
    out = attend(table, qkv, cache, rows, starts, 0.5, mask)[0]
    assert (out[0, 2] == 0).all()
    weights = np.empty((2, 3, 6, length), np.float32)
    keys, values = cache.copy()
    table.attention(qkv, keys, values, rows, starts, 0.5, np.empty_like(out), mask, weights)
    visible = np.arange(length) <= (starts[:, None] + np.arange(6))[:, None, :, None]
    assert (weights[~(mask & visible)] == 0).all()
    totals = weights.sum(axis=-1)
    np.testing.assert_allclose(totals, (mask & visible).any(axis=-1), rtol=1e-6)
    for item, row in enumerate(rows):
        mixed = weights[item] @ values[row, :, :length]  # [heads, seq, head_dim]
        np.testing.assert_allclose(mixed.transpose(1, 0, 2).reshape(6, -1), out[item], atol=1e-6)


def test_result_does_not_depend_on_threads(fast, fast_2):
    case = random_case(np.random.default_rng(1), 2, 30, 4, 40, 50)
    for one, two in zip(attend(fast, *case, 0.2), attend(fast_2, *case, 0.2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_future_and_unused_positions_are_not_read(fast):
    qkv, cache, rows, starts = random_case(np.random.default_rng(2), 1, 5, 2, 8, 4)
    expected = attend(fast, qkv, cache, rows, starts, 1.0)[0]
    cache[:, :, :, int(starts[0]) :] = np.nan
    np.testing.assert_array_equal(attend(fast, qkv, cache, rows, starts, 1.0)[0], expected)


def test_huge_scores_do_not_overflow(fast):
    qkv, cache, rows, starts = random_case(np.random.default_rng(3), 1, 3, 1, 4, 0)
    assert np.isfinite(attend(fast, 1e15 * qkv, cache, rows, starts, 1.0)[0]).all()


def attend_backward(kernels, qkv, heads, scale, grad, mask=None):
    out = np.full_like(qkv, np.nan)
    kernels.attention_backward(qkv, heads, scale, grad, out, mask)
    return out


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    seq=st.integers(1, 12),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 20),
    scale=st.sampled_from([0.125, 1.0, 4.0]),
    is_masked=st.booleans(),
)
def test_the_float64_gradient_equals_central_differences(
    seed, batch, seq, heads, head_dim, scale, is_masked
):
    """Along a random change of qkv, of the sum of outputs times `grad`."""
    rng = np.random.default_rng(seed)
    qkv, change = rng.standard_normal((2, batch, seq, 3 * heads * head_dim))
    grad = rng.standard_normal((batch, seq, heads * head_dim))
    cache = np.zeros((2, batch, heads, seq, head_dim))
    rows, starts = np.arange(batch), np.zeros(batch, np.int64)
    mask = rng.random((batch, 1, seq, seq)) < 0.7 if is_masked else None

    def objective(step):
        moved = qkv + step * change
        return np.sum(attend(numpy_twins, moved, cache, rows, starts, scale, mask)[0] * grad)

    step = 1e-6
    expected = (objective(step) - objective(-step)) / (2 * step)
    found = np.sum(attend_backward(numpy_twins, qkv, heads, scale, grad, mask) * change)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_of_huge_scores_is_finite(fast):
    qkv = random_case(np.random.default_rng(4), 2, 5, 2, 4, 0)[0]
    grad = np.ones((2, 5, 8), np.float32)
    assert np.isfinite(attend_backward(fast, 1e8 * qkv, 2, 1.0, grad)).all()
