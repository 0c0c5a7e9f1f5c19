import numpy as np
import pytest

from rbe_cli.codec.registry import codec_named
from rbe_cli.compression.drift_correction import DriftCorrection, bias_name, rates_to_correct
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress
from rbe_cli.weights.weight_forms import dense


@pytest.fixture(scope="module")
def sequences(config):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, length) for length in (60, 60, 60, 33, 64)]


def rounded(weights, step=0.1):
    return (step * np.rint(weights / step)).astype(np.float32)


def unchanged(weights):
    return weights


def tensors(checkpoint):
    return {
        n: own.T if n in ("wte.weight", "wpe.weight") else own
        for n, own in checkpoint.tensors.items()
    }


class RoundingEncoder:
    """Rounds the matrices that are corrected, and keeps what it was given."""

    def __init__(self, tensors, names, encode=rounded):
        self.tensors = dict(tensors)
        self.names = names
        self.seen = {}
        self._encode = encode

    def corrects(self, name):
        return name in self.names

    def encode(self, corrected, bias):
        self.seen[corrected.name] = corrected
        self.tensors[corrected.name] = self._encode(corrected.weights)
        self.tensors[bias_name(corrected.name)] = bias(self.tensors[corrected.name])

    def restore(self, name):
        raise AssertionError("nothing was interrupted")

    def decoded(self, name):
        return self.tensors[name]


@pytest.fixture
def corrected(checkpoint, model, sequences, pool, new_folder):
    """Return a function that corrects drift; it returns the encoder and the compressed model."""

    def run(names, encode=rounded, progress=no_progress):
        encoder = RoundingEncoder(tensors(checkpoint), names, encode)
        folder = new_folder()
        DriftCorrection(model, sequences, pool, folder, progress)(encoder, "drift")
        left = sorted(path.name for path in folder.path.glob("*.npz"))
        assert left == ["drift.npz"]  # the states of batches take much room
        return encoder, Gpt2(model.config, encoder.tensors, model.kernels)

    return run


def hidden_error(model, compressed, sequences):
    """Return the relative error of the last block's output."""
    pairs = [(model.hidden(own[None]), compressed.hidden(own[None])) for own in sequences]
    error = sum(np.sum((a - b) ** 2, dtype=np.float64) for a, b in pairs)
    return np.sqrt(error / sum(np.sum(a**2, dtype=np.float64) for a, _ in pairs))


def matrices(config):
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return [f"h.{layer}.{part}.weight" for layer in range(config.n_layer) for part in parts]


def test_later_matrices_make_up_for_earlier_errors(
    checkpoint, model, sequences, corrected, progress
):
    names = matrices(model.config)
    encoder, compressed = corrected(names, progress=progress)
    assert list(encoder.seen) == names
    plain = {n: rounded(own) if n in names else own for n, own in tensors(checkpoint).items()}
    before = hidden_error(model, Gpt2(model.config, plain, model.kernels), sequences)
    assert hidden_error(model, compressed, sequences) < 0.7 * before


def test_without_errors_nothing_changes(model, sequences, corrected):
    _, compressed = corrected(matrices(model.config), encode=unchanged)
    for one, other in zip(model.linears(), compressed.linears(), strict=True):
        np.testing.assert_allclose(dense(one.weight), dense(other.weight), atol=1e-4)
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-4)
    assert hidden_error(model, compressed, sequences) < 1e-4


def test_other_matrices_stay(model, corrected):
    name = "h.1.mlp.c_fc.weight"
    encoder, compressed = corrected([name])
    assert list(encoder.seen) == [name]
    for one, other in zip(model.linears(), compressed.linears(), strict=True):
        assert np.array_equal(dense(one.weight), dense(other.weight)) == (one.name != name)


def test_errors_of_embeddings_are_corrected(checkpoint, model, sequences, corrected, monkeypatch):
    """The first layer sees what the embeddings became, which were encoded before it."""
    decoded = RoundingEncoder.decoded

    def coarse(self, name):
        values = decoded(self, name)
        return rounded(values, 0.3) if name == "wte.weight" else values

    monkeypatch.setattr(RoundingEncoder, "decoded", coarse)
    encoder, _ = corrected(["h.0.mlp.c_proj.weight"], encode=unchanged)
    own = tensors(checkpoint)
    own["wte.weight"] = rounded(own["wte.weight"], 0.3)
    before = Gpt2(model.config, own, model.kernels)
    own["h.0.mlp.c_proj.weight"] = encoder.tensors["h.0.mlp.c_proj.weight"]
    own["h.0.mlp.c_proj.bias"] = encoder.tensors["h.0.mlp.c_proj.bias"]
    after = Gpt2(model.config, own, model.kernels)
    error = hidden_error(model, before, sequences)
    assert hidden_error(model, after, sequences) < 0.95 * error


def test_the_moment_is_that_of_the_compressed_model_s_inputs(model, sequences, corrected):
    """The new bias also makes the mean error zero."""
    name = "h.0.mlp.c_fc.weight"
    encoder, compressed = corrected([name])
    inputs = []

    def see(found, values):
        if found == name:
            inputs.append(values.astype(np.float64))

    for own in sequences:
        compressed.hidden(own[None], observe=see)
    x = np.concatenate(inputs)
    assert encoder.seen[name].tokens == len(x)
    np.testing.assert_allclose(encoder.seen[name].inputs, x.T @ x / len(x), rtol=1e-3, atol=1e-5)
    linear, original = compressed.blocks[0].mlp.c_fc, model.blocks[0].mlp.c_fc
    outputs = linear(x.astype(np.float32)) - original(x.astype(np.float32))
    assert np.abs(outputs.mean(axis=0)).max() < 1e-4 * np.abs(outputs).max()


RULES = {
    "all": (Settings(2.0), 2.0, 8),
    "fine": (Settings(8.0), 8.0, 0),
    "outputs": (Settings(2.0, objective="outputs"), 2.0, 0),
    "fixed": (Settings(default_bits=4, default_codec="fixed"), 4.0, 8),
    "classic": (Settings(default_bits=4, default_codec="classic"), 4.0, 0),
    "some exact": (Settings(2.0, override=(Override("mlp", codec="float16"),)), 2.0, 4),
    "some fine": (Settings(2.0, override=(Override("mlp", bits=7.0),)), 2.0, 8),
}


@pytest.mark.parametrize(("settings", "rate", "count"), RULES.values(), ids=RULES)
def test_matrices_of_layers_are_corrected_at_low_rates(config, settings, rate, count):
    plans = make_plan(config, settings)
    rates = rates_to_correct(plans, rate, settings.objective)
    assert len(rates) == count
    for plan in plans:
        if plan.name in rates:
            assert rates[plan.name] == (plan.options.bits or rate)
            assert codec_named(plan.codec.name).weighs_errors
            assert plan.role == "linear"
