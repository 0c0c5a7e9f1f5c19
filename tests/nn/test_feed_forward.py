import math
from typing import get_args

import numpy as np
import pytest
from small_layers import peak_bytes, random_block, random_input
from small_models import relative_error

from rbe_cli.errors import UsageError
from rbe_cli.model.config import Activation
from rbe_cli.model.config_dialects import ACTIVATION_ALIASES, to_gpt2_names
from rbe_cli.nn.feed_forward_layer import FeedForward
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


@pytest.mark.parametrize("name", [*get_args(Activation), *ACTIVATION_ALIASES])
def test_every_name_of_a_config_is_taken(kernels, name):
    """The layer computes what a config of this name would."""
    known = to_gpt2_names({"activation_function": name})["activation_function"]
    block, _ = random_block(kernels, activation_function=known)
    mlp, x = FeedForward(block.mlp.c_fc, block.mlp.c_proj, name, kernels), random_input(2, 9, 42)
    np.testing.assert_array_equal(mlp(x), block.mlp(x))


def test_other_names_are_refused(kernels):
    mlp = random_block(kernels)[0].mlp
    with pytest.raises(UsageError, match=r"'tanh' is not one of gelu, .*gelu_new, .*swish"):
        FeedForward(mlp.c_fc, mlp.c_proj, "tanh", kernels)


def test_activations_are_those_of_the_design(kernels):
    """GELU, its tanh form, ReLU and Swish at the design's own points."""
    x = np.array([-3, -1, -0.1, 0, 0.1, 1, 3], np.float32)
    exact = x.astype(np.float64)
    cubic = np.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3))
    expected = {
        "gelu": [value / 2 * (1 + math.erf(value / math.sqrt(2))) for value in exact],
        "gelu_new": exact / 2 * (1 + cubic),
        "relu": np.maximum(exact, 0),
        "swish": exact / (1 + np.exp(-exact)),
    }
    mlp = random_block(kernels)[0].mlp
    for name, values in expected.items():
        own = FeedForward(mlp.c_fc, mlp.c_proj, name, kernels)
        np.testing.assert_allclose(own.activated(x), values, rtol=2e-6, atol=2e-7)


def test_an_observer_sees_what_is_multiplied(kernels):
    """With a norm, that is its output."""
    block, _ = random_block(kernels, 7)
    x, seen = random_input(2, 9, 42), []
    linear = block.mlp.c_fc
    out = linear(x, lambda _, values: seen.append(values.copy()), norm=block.ln_2.norm)
    np.testing.assert_array_equal(seen, [block.ln_2(x).reshape(-1, 42)])
    np.testing.assert_array_equal(out, linear(x, norm=block.ln_2.norm))
