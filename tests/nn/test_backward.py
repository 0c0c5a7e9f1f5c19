"""Gradients with respect to activations, against central differences in float64."""

from typing import get_args

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import as_panels, float64, random_tensors, relative_error, small_config

from rbe_cli.checkpoint.config import Activation
from rbe_cli.nn.gpt2 import Gpt2

OPTIONS = [
    *({"activation_function": name} for name in get_args(Activation)),
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"tie_word_embeddings": False},
    {"n_head": 1, "n_inner": 5},
]


def run_backward(model, tokens, grad):
    """(gradient of the embedded input, {weight: (its inputs, gradient of its outputs)})."""
    states, seen = [], {}

    def keep(name, values):
        if not name.endswith(".weight"):
            states.append(values.copy())

    model.forward(tokens, observe=keep)

    def see(name, inputs, gradient):
        seen[name] = inputs.astype(np.float64), gradient.astype(np.float64)

    return model.backward(tokens, states, grad, see), seen


def difference(tensors, name, change, tokens, grad, config):
    """d(sum(logits * grad)) / d(tensors[name] along change), central, in float64."""
    epsilon = 1e-5

    def objective(sign):
        moved = tensors | {name: tensors[name] + sign * epsilon * change}
        return sum(
            np.sum(gpt2(row, moved, config) * g) for row, g in zip(tokens, grad, strict=True)
        )

    return (objective(1) - objective(-1)) / (2 * epsilon)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_equal_central_differences(kernels, options):
    config = small_config(**options)
    tensors = random_tensors(config)
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, config.vocab_size, (2, 7))
    grad = rng.standard_normal((2, 7, config.vocab_size), np.float32)
    model = Gpt2.from_checkpoint(config, tensors, kernels)
    embedded, seen = run_backward(model, tokens, grad)

    exact = float64(tensors)
    # Every position's embedding is added to the input, every bias to its layer's output.
    change = rng.standard_normal(exact["wpe.weight"].shape)
    change[7:] = 0
    expected = difference(exact, "wpe.weight", change, tokens, grad, config)
    assert relative_error(np.sum(embedded * change[:7]), expected) < 1e-3
    gradients = {}
    for name, (inputs, gradient) in seen.items():
        gradients[name.removesuffix("weight") + "bias"] = gradient.sum(axis=0)
        is_norm = ".ln_" in f".{name}"
        gradients[name] = (inputs * gradient).sum(axis=0) if is_norm else inputs.T @ gradient
    del gradients[("wte." if config.tie_word_embeddings else "lm_head.") + "bias"]
    gradients.pop("wte.weight", None)  # the head's share of it alone
    for name, gradient in gradients.items():
        stored = gradient.T if name == "lm_head.weight" else gradient
        change = rng.standard_normal(stored.shape)
        expected = difference(exact, name, change, tokens, grad, config)
        assert relative_error(np.sum(stored * change), expected) < 1e-3, name
    assert len(seen) == 6 * config.n_layer + 2


def test_panels_have_the_gradients_of_their_weights(kernels):
    config = small_config()
    panels, decoded = as_panels(random_tensors(config), 127)
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, config.vocab_size, (2, 9))
    grad = rng.standard_normal((2, 9, config.vocab_size), np.float32)
    ours, _ = run_backward(Gpt2(config, panels, kernels), tokens, grad)
    dense, _ = run_backward(Gpt2.from_checkpoint(config, decoded, kernels), tokens, grad)
    assert relative_error(ours, dense) < 1e-4
