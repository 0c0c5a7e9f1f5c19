import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.ectcq.head_bases import decorrelate


def attention_weights(d, seed, *, mixed=True):
    """Return c_attn, bias and c_proj. The columns of each head are correlated if `mixed`."""
    rng = np.random.default_rng(seed)
    c_attn, bias, c_proj = (rng.normal(size=s) for s in ((d, 3 * d), (3 * d,), (d, d)))
    if mixed:
        c_attn, c_proj = c_attn @ rng.normal(size=(3 * d, 3 * d)), rng.normal(size=(d, d)) @ c_proj
    return [array.astype(np.float32) for array in (c_attn, bias, c_proj)]


def products(c_attn, bias, c_proj, heads):
    """Return what the function depends on: Wq Wk^T and Wv Wo of each head, biases as last row."""
    rows = np.vstack([c_attn, bias]).astype(np.float64)
    q, k, v = np.split(rows, 3, axis=1)
    found = []
    for head in np.split(np.arange(len(c_proj)), heads):
        found += [q[:, head] @ k[:, head].T, v[:, head] @ c_proj[head].astype(np.float64)]
    return found


@given(
    heads=st.integers(1, 4), width=st.integers(1, 9), seed=st.integers(0, 99), mixed=st.booleans()
)
def test_the_function_stays_the_same(heads, width, seed, mixed):
    weights = attention_weights(heads * width, seed, mixed=mixed)
    changed = decorrelate(*weights, heads)
    for array, original in zip(changed, weights, strict=True):
        assert array.dtype == np.float32
        assert array.shape == original.shape
    before, after = products(*weights, heads), products(*changed, heads)
    for ours, exact in zip(after, before, strict=True):
        assert np.abs(ours - exact).max() <= 1e-4 * np.abs(exact).max()


def correlation(columns):
    """Return the largest correlation of two columns, with rows divided by their scales."""
    rows = columns / np.sqrt(np.mean(columns**2, axis=1, keepdims=True))
    moment = rows.T @ rows
    powers = np.sqrt(np.diag(moment))
    return np.abs(moment / powers / powers[:, None] - np.eye(len(moment))).max()


def test_columns_of_a_head_are_less_correlated():
    """Some correlation remains, because the scales of the rows depend on the basis."""
    weights = attention_weights(60, 0)
    c_attn, _, c_proj = decorrelate(*weights, 3)
    for head in np.split(np.arange(60), 3):
        for part in (0, 60, 120):
            before = correlation(weights[0][:, part + head])
            assert correlation(c_attn[:, part + head]) < min(0.5 * before, 0.3)
        assert correlation(c_proj[head].T) < 0.5 * correlation(weights[2][head].T)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_weights_without_rank_are_borne(part):
    weights = attention_weights(12, 3)
    weights[0][:, 12 * part : 12 * part + 12] = 0
    weights[2][4:] = 0
    before = products(*weights, 3)
    for ours, exact in zip(products(*decorrelate(*weights, 3), 3), before, strict=True):
        assert np.abs(ours - exact).max() <= 1e-4 * max(np.abs(exact).max(), 1e-3)
