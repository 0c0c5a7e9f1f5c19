"""Sizes and errors of a model put together from quantised matrices."""

import numpy as np
import pytest
from small_models import random_tensors, small_config

from benchmarks.peers.measure import SchemeSubject, assemble, input_moments, score
from benchmarks.peers.quantised import QuantisedMatrix
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.evaluation.batching import Window
from rbe_cli.jobs.workers import workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import is_embedding, is_matrix, parameter_count
from rbe_cli.nn.gpt2 import Gpt2


def sequences(config, count=3, length=20):
    return list(np.random.default_rng(7).integers(0, config.vocab_size, (count, length)))


@pytest.fixture(scope="module")
def subject():
    config = small_config()
    tensors = random_tensors(config)
    model = Gpt2.from_checkpoint(config, tensors, load_kernels("reference"))
    text = sequences(config)
    names = [name for name in tensors if is_matrix(name) and name != "wpe.weight"]
    checkpoint = Checkpoint(config, tensors, None, "test", "", 0)
    moments = input_moments(model, text)
    return SchemeSubject(checkpoint, model, names, [Window(tokens) for tokens in text], moments)


def quantised(subject, bits, noise=0.0):
    """Every matrix, its weights off by a relative `noise`."""
    rng = np.random.default_rng(8)
    found = {}
    for name in subject.names:
        weights = subject.matrix(name)
        factor = 1 + noise * rng.normal(size=weights.shape).astype(np.float32)
        found[name] = QuantisedMatrix(weights * factor, bits * weights.size)
    return found


def test_bits_count_the_matrices_and_the_rest_as_float16(subject):
    candidate = assemble(subject, quantised(subject, 3))
    total = parameter_count(subject.checkpoint.config)
    matrices = sum(subject.checkpoint.tensors[name].size for name in subject.names)
    assert candidate.matrix_bits == 3
    assert candidate.model_bits == pytest.approx((3 * matrices + 16 * (total - matrices)) / total)


def test_the_original_s_matrices_score_as_the_original(subject):
    with workers(1) as one:
        point = score(subject, assemble(subject, quantised(subject, 32)), "none", "32", one)
    assert point.output_error == 0
    assert 0 <= point.kl_divergence < 1e-5  # biases and LayerNorms are float16


def test_the_output_error_is_that_of_the_layers_outputs(subject):
    matrices = quantised(subject, 8, noise=0.1)
    with workers(1) as one:
        point = score(subject, assemble(subject, matrices), "noise", "8", one)
    squares = {}

    def observe(name, values):
        if name in matrices and not is_embedding(name):
            weights = subject.matrix(name)
            outputs = values @ weights
            change = values @ (matrices[name].weights - weights)
            error, power = squares.get(name, (0.0, 0.0))
            squares[name] = (error + (change**2).sum(), power + (outputs**2).sum())

    for window in subject.windows:
        subject.reference.forward(window.tokens[None], observe=observe)
    expected = np.mean([np.sqrt(error / power) for error, power in squares.values()])
    assert point.output_error == pytest.approx(expected, rel=1e-3)
    assert point.kl_divergence > 1e-3


def test_moments_are_of_each_layer_s_inputs_and_the_head_s_are_the_tied_embedding_s(subject):
    model, (tokens, *_) = subject.reference, [window.tokens for window in subject.windows]
    inputs = {}

    def observe(name, values):
        if name.endswith(".weight"):
            inputs[name] = values.copy()

    model.forward(tokens[None], observe=observe)
    found = input_moments(model, [tokens])
    assert found.keys() == inputs.keys()
    assert "wte.weight" in found
    for name, values in inputs.items():
        expected = values.T @ values / len(tokens)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_an_embedding_that_is_no_head_has_the_identity():
    config = small_config(tie_word_embeddings=False)
    model = Gpt2.from_checkpoint(config, random_tensors(config), load_kernels("reference"))
    found = input_moments(model, sequences(config, count=1))
    np.testing.assert_array_equal(found["wte.weight"], np.eye(config.n_embd))
    assert "lm_head.weight" in found
