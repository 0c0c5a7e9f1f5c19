import numpy as np
import pytest
from reference_gpt2 import gpt2, softmax
from small_models import float64

from rbe_cli.checkpoint.names import is_embedding, is_matrix
from rbe_cli.codec.matrix import EncodedMatrix, encode_block
from rbe_cli.tasks.encoding import Source
from rbe_cli.tasks.progress import no_progress
from rbe_cli.tasks.sensitivity import measure, probe_step
from rbe_cli.tasks.workers import workers


@pytest.fixture(scope="module")
def sources(checkpoint):
    return {
        name: Source(np.ascontiguousarray(tensor.T) if is_embedding(name) else tensor)
        for name, tensor in checkpoint.tensors.items()
        if is_matrix(name)
    }


@pytest.fixture(scope="module")
def sequences(config):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, n) for n in (30, 30, 12)]


def test_a_probe_is_what_one_matrix_alone_does_to_the_model(
    checkpoint, model, sources, sequences, executor, progress
):
    probes = measure(model, checkpoint.tensors, sources, sequences, executor, progress)
    assert list(probes) == list(sources)
    tensors, config = float64(checkpoint.tensors), checkpoint.config
    for name in ("wte.weight", "wpe.weight", "h.1.mlp.c_proj.weight"):
        weights, probe = sources[name].weights, probes[name]
        block = encode_block(weights, None, float(np.float32(probe.step)))
        matrix = EncodedMatrix(weights.shape, float(np.float32(probe.step)), (block,))
        decoded = matrix.decode().astype(np.float64)
        changed = tensors | {name: decoded.T if is_embedding(name) else decoded}
        divergence = []
        for tokens in sequences:
            p = softmax(gpt2(tokens, tensors, config))
            q = softmax(gpt2(tokens, changed, config))
            divergence += np.sum(p * np.log(p / q), axis=-1).tolist()
        assert probe.weights == weights.size
        assert probe.step == probe_step(weights)
        assert probe.nbytes == matrix.nbytes
        assert probe.loss == pytest.approx(np.mean(divergence), rel=1e-3)


def test_probes_do_not_depend_on_the_threads(checkpoint, model, sources, sequences):
    def probed(threads):
        with workers(threads) as executor:
            return measure(model, checkpoint.tensors, sources, sequences, executor, no_progress)

    assert probed(1) == probed(2) == probed(3)


def test_the_model_is_left_as_it_was(checkpoint, model, sources, sequences, executor):
    before = model.forward(sequences[0][None])
    measure(model, checkpoint.tensors, sources, sequences, executor, no_progress)
    np.testing.assert_array_equal(model.forward(sequences[0][None]), before)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_probe_costs_about_three_bits(scale):
    weights = (scale * np.random.default_rng(0).normal(size=(128, 512))).astype(np.float32)
    block = encode_block(weights, None, probe_step(weights))
    assert 8 * block.nbytes / weights.size == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize("value", [0.25, -1e-6, 1e6])
def test_a_step_fits_weights_that_are_all_alike(value):
    weights = np.full((5, 9), value, np.float32)
    assert 0.1 < probe_step(weights) / abs(value) < 1


def test_zeros_have_a_step():
    assert 0 < probe_step(np.zeros((3, 4), np.float32)) < 10
