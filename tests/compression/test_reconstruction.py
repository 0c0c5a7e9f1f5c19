import numpy as np
import pytest

from rbe_cli.codec.error_cost import InputFactor
from rbe_cli.compression.tune.reconstruction import reconstruct
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.weights.weight_forms import dense


@pytest.fixture(scope="module")
def sequences(config):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, length) for length in (60, 60, 60, 33, 64)]


def rounded(weights, step=0.1):
    return (step * np.rint(weights / step)).astype(np.float32)


def tensors(checkpoint):
    return {
        n: own.T if n in ("wte.weight", "wpe.weight") else own
        for n, own in checkpoint.tensors.items()
    }


def hidden_error(model, compressed, sequences):
    """Return the relative error of the last block's output."""
    pairs = [(model.hidden(own[None]), compressed.hidden(own[None])) for own in sequences]
    error = sum(np.sum((a - b) ** 2, dtype=np.float64) for a, b in pairs)
    return np.sqrt(error / sum(np.sum(a**2, dtype=np.float64) for a, _ in pairs))


def reconstructed(checkpoint, model, sequences, pool, names, progress, encode=None):
    own = tensors(checkpoint)
    compressed = Gpt2(model.config, own, model.kernels)
    seen = {}

    def encode_rounded(name, weights, inputs):
        seen[name] = weights, inputs
        return rounded(weights)

    biases = reconstruct(
        model, compressed, sequences, dict.fromkeys(names, 3.0), encode or encode_rounded, pool,
        progress,
    )  # fmt: skip
    return compressed, biases, seen


def matrices(config):
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return [f"h.{layer}.{part}.weight" for layer in range(config.n_layer) for part in parts]


def test_later_matrices_make_up_for_earlier_errors(checkpoint, model, sequences, pool, progress):
    names = matrices(model.config)
    compressed, biases, seen = reconstructed(checkpoint, model, sequences, pool, names, progress)
    assert list(seen) == names
    assert biases.keys() == {name.replace("weight", "bias") for name in names}
    plain = {n: rounded(own) if n in names else own for n, own in tensors(checkpoint).items()}
    before = hidden_error(model, Gpt2(model.config, plain, model.kernels), sequences)
    assert hidden_error(model, compressed, sequences) < 0.7 * before


def test_without_errors_nothing_changes(checkpoint, model, sequences, pool, progress):
    compressed, _, _ = reconstructed(
        checkpoint, model, sequences, pool, matrices(model.config), progress,
        lambda name, weights, inputs: weights,
    )  # fmt: skip
    for one, other in zip(model.linears(), compressed.linears(), strict=True):
        np.testing.assert_allclose(dense(one.weight), dense(other.weight), atol=1e-4)
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-4)
    assert hidden_error(model, compressed, sequences) < 1e-4


def test_other_matrices_stay(checkpoint, model, sequences, pool, progress):
    name = "h.1.mlp.c_fc.weight"
    compressed, biases, seen = reconstructed(checkpoint, model, sequences, pool, [name], progress)
    assert list(seen) == [name]
    assert list(biases) == ["h.1.mlp.c_fc.bias"]
    for one, other in zip(model.linears(), compressed.linears(), strict=True):
        assert np.array_equal(dense(one.weight), dense(other.weight)) == (one.name != name)


def test_the_moment_is_that_of_the_compressed_model_s_inputs(
    checkpoint, model, sequences, pool, progress
):
    """The new bias also makes the mean error zero."""
    name = "h.0.mlp.c_fc.weight"
    compressed, _, seen = reconstructed(checkpoint, model, sequences, pool, [name], progress)
    inputs, outputs = [], []

    def see(found, values):
        if found == name:
            inputs.append(values.astype(np.float64))

    for own in sequences:
        compressed.hidden(own[None], observe=see)
    x = np.concatenate(inputs)
    expected = InputFactor.from_moment((x.T @ x / len(x)).astype(np.float32), 0.2 / 8)
    np.testing.assert_allclose(seen[name][1].diagonal, expected.diagonal, rtol=1e-3)
    linear, original = compressed.blocks[0].mlp.c_fc, model.blocks[0].mlp.c_fc
    outputs = linear(x.astype(np.float32)) - original(x.astype(np.float32))
    assert np.abs(outputs.mean(axis=0)).max() < 1e-4 * np.abs(outputs).max()
