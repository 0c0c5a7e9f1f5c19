from typing import get_args

import numpy as np
import pytest
from small_layers import peak_bytes, random_block, random_input
from small_models import relative_error

from rbe_cli.model.config import Activation
from rbe_cli.nn.gradients import Gradients


def backward(mlp, x, grad, hidden=None):
    found = Gradients()
    inputs = mlp.backward(x, grad, found, hidden)
    return {"x": inputs} | found.sums


@pytest.mark.parametrize("largest", [None, 7])
@pytest.mark.parametrize("name", get_args(Activation))
def test_chunks_change_nothing(kernels, name, largest):
    block, _ = random_block(kernels, largest, activation_function=name)
    mlp, x, grad = block.mlp, random_input(2, 40, 42), random_input(2, 40, 42, seed=1)
    whole, gradients = mlp(x), backward(mlp, x, grad)
    for limit in (0, 5000, 20_000):
        mlp.memory_limit = limit
        assert relative_error(mlp(x), whole) <= 1e-6
        for own, other in zip(backward(mlp, x, grad).values(), gradients.values(), strict=True):
            assert relative_error(own, other) <= 2e-6


@pytest.mark.parametrize("largest", [None, 7])
def test_the_peak_stays_under_the_limit(fast, largest):
    block, _ = random_block(fast, largest, n_embd=64, n_head=1, n_inner=256)
    mlp, x = block.mlp, random_input(3000, 64)

    def forgetting():
        fast.buffers.clear()  # or a peak would miss what is borrowed
        return mlp(x)

    # Compressed weights are multiplied by 256 tokens at a time anyway.
    all_at_once = 3000 * 256 * 4
    assert (peak_bytes(forgetting) > all_at_once) == (largest is None)
    for limit in (2_000_000, 800_000, 400_000):
        mlp.memory_limit = limit
        assert min(limit, 500_000) / 8 < peak_bytes(forgetting) <= limit


def test_what_is_kept_changes_no_gradient(kernels):
    block, _ = random_block(kernels, 7)
    mlp, x, grad = block.mlp, random_input(2, 9, 42), random_input(2, 9, 42, seed=1)
    recomputed = backward(mlp, x, grad)
    for name, own in backward(mlp, x, grad, mlp.expand(x)).items():
        np.testing.assert_array_equal(own, recomputed[name])


def test_fusion_changes_nothing(kernels):
    block, _ = random_block(kernels, 7)
    x = random_input(2, 9, 42)
    fused = block.mlp(x, norm=block.ln_2.norm)
    normed = block.ln_2(x)
    np.testing.assert_array_equal(fused, block.mlp(normed))
    np.testing.assert_array_equal(fused, block.mlp.contract(block.mlp.expand(normed)))


def test_an_observer_sees_what_is_multiplied(kernels):
    """With a norm, that is its output."""
    block, _ = random_block(kernels, 7)
    x, seen = random_input(2, 9, 42), []
    linear = block.mlp.c_fc
    out = linear(x, lambda _, values: seen.append(values.copy()), norm=block.ln_2.norm)
    np.testing.assert_array_equal(seen, [block.ln_2(x).reshape(-1, 42)])
    np.testing.assert_array_equal(out, linear(x, norm=block.ln_2.norm))
