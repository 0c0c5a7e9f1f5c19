"""Programs of the layers: the same bits with each instruction set."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels.activations import activation_call
from rbe_cli.kernels.attention import attention_call
from rbe_cli.kernels.kernel_records import ACTIVATIONS
from rbe_cli.kernels.layer_norm import layer_norm_call
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team

SEEDS = st.integers(0, 2**32)


def same_bits(compute):
    """Check that `compute(team)` gives arrays of the same bytes with all instruction sets."""
    found = [[array.tobytes() for array in compute(get_team(1, own))] for own in available()]
    assert found == [found[0]] * len(found)


def random(seed, *shape, spread=1.0):
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(seed=SEEDS, size=st.integers(1, 70), spread=st.sampled_from([0.1, 1.0, 30.0, 1e4]))
def test_activations(name, seed, size, spread):
    def compute(team):
        x, grad = random(seed, size, spread=spread), random(seed + 1, size)
        activation_call.activate_backward(team, name, x, grad)
        activation_call.activate(team, name, x)
        return x, grad

    same_bits(compute)


@given(
    seed=SEEDS, batch=st.integers(1, 3), seq=st.integers(1, 20), heads=st.integers(1, 3),
    head_dim=st.integers(1, 70), scale=st.sampled_from([0.125, 1.0, 30.0]),
)  # fmt: skip
def test_attention(seed, batch, seq, heads, head_dim, scale):
    qkv = random(seed, batch, seq, 3 * heads * head_dim)

    def compute(team):
        cache = np.zeros((2, batch, heads, seq, head_dim), np.float32)
        out = np.empty((batch, seq, heads * head_dim), np.float32)
        rows, starts = np.arange(batch), np.zeros(batch, np.int64)
        attention_call.attention(team, qkv, *cache, rows, starts, scale, out)
        return out, cache

    same_bits(compute)


@given(seed=SEEDS, tokens=st.integers(1, 40), width=st.integers(1, 200), is_half=st.booleans())
def test_layer_norm(seed, tokens, width, is_half):
    x, gamma, beta = random(seed, tokens, width), random(seed, width), random(seed + 1, width)
    x = x.astype(np.float16 if is_half else np.float32)

    def compute(team, passes):
        out, statistics = np.empty_like(x), np.empty((tokens, 2))
        layer_norm_call.layer_norm(team, x, gamma, beta, 1e-5, out, statistics, passes=passes)
        return out, statistics

    for passes in ("fused", "standard"):
        same_bits(partial(compute, passes=passes))


@given(seed=SEEDS, tokens=st.integers(1, 40), width=st.integers(1, 200))
def test_layer_norm_backward(seed, tokens, width):
    x, gamma, grad = (
        random(seed, tokens, width),
        random(seed, width),
        random(seed + 1, tokens, width),
    )

    def compute(team):
        out, statistics = np.empty_like(x), np.empty((tokens, 2))
        layer_norm_call.layer_norm(team, x, gamma, gamma, 1e-5, out, statistics)
        both = layer_norm_call.layer_norm_backward(team, x, statistics, gamma, grad, out)
        return out, *both

    same_bits(compute)
