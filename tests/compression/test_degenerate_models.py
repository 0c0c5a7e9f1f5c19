"""Compress models with singular moments, which are rare: more bits must lose less."""

import numpy as np
import pytest
from compressing import decode, run
from small_models import random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.compression.settings import Settings

NOISE = 1e-8  # nats a token: below it, KL is what rounding in float32 makes of it
RATES = (3.0, 7.0, 12.0)


def as_they_are(tensors):
    pass


def certain(tensors):
    """Change the weights so that one token is predicted with certainty after any other."""
    token = tensors["wte.weight"][7]
    tensors["ln_f.weight"][:] = 0
    tensors["ln_f.bias"][:] = 60 * token / np.sum(token**2)


def nearly_certain(tensors):
    for name in ("ln_f.weight", "ln_f.bias"):
        tensors[name] *= 5


def dead_neurons(tensors):
    tensors["h.0.mlp.c_fc.weight"][:, ::2] = 0
    tensors["h.0.mlp.c_fc.bias"][::2] = -50
    tensors["h.1.mlp.c_proj.weight"][::3] = 0


def constant_channels(tensors):
    for name in ("h.0.ln_1", "h.1.ln_2", "ln_f"):
        tensors[f"{name}.weight"][5:30] = 0
        tensors[f"{name}.bias"][5:30] = 1


def layers_that_add_nothing(tensors):
    for name in tensors:
        if name.endswith("c_proj.weight"):
            tensors[name][:] = 0


def all_zero(tensors):
    for tensor in tensors.values():
        tensor[:] = 0


def rank_one(tensors):
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor[:] = np.outer(tensor[:, 0], tensor[0])


def tiny_and_huge(tensors):
    tensors["h.0.mlp.c_fc.weight"] *= 1e-30
    tensors["h.1.mlp.c_fc.weight"] *= 1e30
    tensors["h.1.mlp.c_proj.weight"] *= 1e-30


def tiny(tensors):
    for tensor in tensors.values():
        if tensor.ndim == 2:
            tensor *= 1e-30


def huge_embeddings(tensors):
    for name in ("wte.weight", "wpe.weight"):
        tensors[name] *= 1e30


def outliers(tensors):
    tensors["h.0.mlp.c_proj.weight"][7, 9] = 500
    tensors["wte.weight"][3, 5] = 30


MODELS = [
    as_they_are, certain, nearly_certain, dead_neurons, constant_channels,
    layers_that_add_nothing, all_zero, rank_one, tiny_and_huge, tiny, outliers,
]  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Return a function that makes a checkpoint of random weights, changed by its argument."""

    def make(change):
        config = small_config(vocab_size=120, n_positions=32, n_embd=24, n_layer=2, n_inner=50)
        tensors = random_tensors(config)
        change(tensors)
        size = sum(tensor.nbytes for tensor in tensors.values())
        return Checkpoint(config, tensors, None, change.__name__, "xxh3:0", size)

    return make


@pytest.mark.parametrize("samples", [1, 12], ids=["one sequence", "twelve sequences"])
@pytest.mark.parametrize("change", MODELS, ids=lambda change: change.__name__)
def test_divergence_never_rises_with_the_rate(made, tmp_path, change, samples):
    checkpoint, before = made(change), np.inf
    for rate in RATES:
        path = tmp_path / f"{rate}.rbe"
        result = run(checkpoint, path, Settings(default_bits=rate), calib_samples=samples)
        divergence = result.quality.kl_divergence
        assert divergence <= max(before, NOISE)
        before = divergence
    assert divergence < 2e-5
    for name, tensor in decode(path).items():
        assert np.isfinite(tensor).all(), name


def test_logits_of_any_size_are_finite(made, tmp_path):
    """If logits differ by 1e30, rounding decides the divergence: only finiteness is checked."""
    result = run(made(huge_embeddings), tmp_path / "a.rbe", Settings(default_bits=12.0))
    assert np.isfinite(result.quality.kl_divergence)


@pytest.mark.parametrize("codec", ["fixed", "classic"])
@pytest.mark.parametrize("change", MODELS, ids=lambda change: change.__name__)
def test_the_other_codecs_write_finite_files(made, tmp_path, change, codec):
    settings = Settings(default_bits=8.0, default_codec=codec)
    result = run(made(change), tmp_path / "a.rbe", settings, calib_samples=12)
    assert np.isfinite(result.quality.kl_divergence)
    for name, tensor in decode(tmp_path / "a.rbe").items():
        assert np.isfinite(tensor).all(), name


@pytest.mark.parametrize("change", MODELS, ids=lambda change: change.__name__)
def test_every_model_can_be_tuned(made, tmp_path, change):
    result = run(made(change), tmp_path / "a.rbe", Settings(default_bits=4.0), tune=2)
    assert result.quality.kl_divergence <= result.tuning.untuned


def test_one_token_a_sequence_and_then_some(made, tmp_path):
    """Use the shortest sequences that have a prediction."""
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(f"{i} {i + 1}" for i in range(40)) + "\n3\n")
    checkpoint = made(as_they_are)
    settings = Settings(default_bits=10.0)
    result = run(checkpoint, tmp_path / "a.rbe", settings, calib_tokens=tokens)
    assert result.quality.kl_divergence < 1e-4


def test_a_certain_prediction_is_kept(made, tmp_path):
    """The model always predicts one token, and so does the file at any rate."""
    checkpoint = made(certain)
    for rate in (1.0, 2.0, 4.0):
        result = run(checkpoint, tmp_path / f"{rate}.rbe", Settings(default_bits=rate))
        assert result.quality.kl_divergence < 1e-3


def test_a_model_of_zeros_is_exact_at_any_size(made, tmp_path):
    checkpoint = made(all_zero)
    for target in (4.0, 11.0):
        result = run(checkpoint, tmp_path / f"{target}.rbe", Settings(target))
        assert result.quality.kl_divergence == 0
        assert result.bits_per_weight <= target
        assert not any(tensor.any() for tensor in decode(tmp_path / f"{target}.rbe").values())


def test_the_rest_of_a_column_with_an_outlier_is_not_lost(made, tmp_path):
    checkpoint = made(outliers)
    run(checkpoint, tmp_path / "a.rbe", Settings(default_bits=10.0))
    decoded = decode(tmp_path / "a.rbe")["h.0.mlp.c_proj.weight"]
    original = checkpoint.tensors["h.0.mlp.c_proj.weight"]
    # Its column's step lets it be half of the largest integer; a trellis has every other integer.
    step = 2 ** (1 / 8) * 500 / (MAX_INTEGER / 2)
    assert decoded[7, 9] == pytest.approx(500, abs=2 * step)
    # Steps are as large as half of these weights.
    error = np.linalg.norm(decoded[:7, 9] - original[:7, 9]) / np.linalg.norm(original[:7, 9])
    assert error < 0.5
