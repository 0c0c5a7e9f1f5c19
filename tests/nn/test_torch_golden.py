"""A whole small GPT-2 against torch's autograd (fixtures/make_torch_golden.py)."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn import parameters
from rbe_cli.nn.adam import Adam
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import loss_and_gradients

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.append(str(FIXTURES))

from golden_models import BETAS, CONFIGS, EPS, RATE, golden_batches, golden_tensors  # noqa: E402

GOLDEN = np.load(FIXTURES / "torch_golden.npz")


def model_tensors(config):
    return {
        name: own.T if is_embedding(name) else own for name, own in golden_tensors(config).items()
    }


@pytest.mark.parametrize("label", CONFIGS)
def test_all_gradients_equal_torch_s(kernels, label):
    config = CONFIGS[label]
    tokens = golden_batches(config)[0]
    _, found = loss_and_gradients(Gpt2(config, model_tensors(config), kernels), tokens)
    assert len(found) == 2 + 12 * config.n_layer + 2 + (not config.tie_word_embeddings)
    for name, own in found.items():
        expected = GOLDEN[f"{label} gradient {name}"]
        own = own.T if is_embedding(name) else own
        error = np.abs(own - expected).max() / np.abs(expected).max()
        assert error <= 1e-4, name


@pytest.mark.parametrize("label", CONFIGS)
def test_ten_steps_of_training_give_torch_s_losses(kernels, label):
    config = CONFIGS[label]
    tensors, adam, losses = model_tensors(config), Adam(BETAS, EPS), []
    for tokens in golden_batches(config):
        loss, gradients = loss_and_gradients(Gpt2(config, tensors, kernels), tokens)
        losses.append(loss)
        values = parameters.split(tensors)
        moved = adam.step(values, gradients, dict.fromkeys(values, RATE))
        tensors = parameters.join(tensors, moved)
    expected = GOLDEN[f"{label} losses"]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert np.ptp(expected) > 0.1
