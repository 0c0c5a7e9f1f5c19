"""Files whose residual stream is rotated: the same model, with fewer errors."""

import numpy as np
import pytest
from compressing import decode, run
from reference_gpt2 import gpt2
from small_models import correlated_tensors, float64, relative_error, small_config

from rbe_cli.api.language_model import load
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.container.as_checkpoint import as_checkpoint
from rbe_cli.container.reader import Container
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.forward_pass import forward
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import ROTATION, tensor_shapes
from rbe_cli.nn.gpt2 import Gpt2

CONFIG = small_config(n_embd=24, n_head=2, vocab_size=900, n_inner=96, n_layer=2, n_positions=64)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 30)
FINE = Settings(9.0)


@pytest.fixture(scope="module")
def checkpoint():
    tensors = correlated_tensors(CONFIG)
    return Checkpoint(CONFIG, tensors, None, "correlated", "xxh3:0", 1)


@pytest.fixture(scope="module")
def rbe_file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("rotated") / "a.rbe"
    result = run(checkpoint, path, FINE)
    assert [tensor.name for tensor in result.tensors] == [*tensor_shapes(CONFIG), ROTATION]
    assert result.tensors[-1].relative_error == 0
    assert result.bits_per_weight == pytest.approx(9, rel=0.01)
    return path


@pytest.fixture(scope="module")
def restored(rbe_file):
    """The tensors of the file as a checkpoint has them."""
    with Container.open(rbe_file) as container:
        assert container.format_version == 2
        return dict(as_checkpoint(container, "a.rbe").tensors)


def test_the_model_computes_what_the_checkpoint_does(checkpoint, rbe_file, restored):
    expected = gpt2(TOKENS, float64(checkpoint.tensors), CONFIG)
    assert restored.keys() == checkpoint.tensors.keys()
    assert relative_error(gpt2(TOKENS, float64(restored), CONFIG), expected) < 0.05
    with load(rbe_file, threads=1) as model:
        assert relative_error(model.logits(TOKENS), expected) < 0.05


def test_logits_and_states_are_those_of_the_restored_checkpoint(rbe_file, restored):
    expected = gpt2(TOKENS, float64(restored), CONFIG)
    assert relative_error(gpt2(TOKENS, float64(decode(rbe_file)), CONFIG), expected) < 1e-5
    with load(rbe_file, threads=1) as model:
        found = forward(model.passes, TOKENS, keep_hidden=True)
    assert relative_error(found.logits, expected) < 1e-3
    original = Gpt2.from_checkpoint(CONFIG, restored, load_kernels("reference"))
    for name, own in forward(original, TOKENS, keep_hidden=True).hidden.items():
        assert relative_error(found.hidden[name], own) < 1e-3


def test_a_rotated_file_has_fewer_errors(checkpoint, tmp_path):
    settings = Settings(4.0, objective="outputs")
    exact = Settings(4.0, objective="outputs", override=(Override("h.0.*ln_1", "float32"),))
    rotated = run(checkpoint, tmp_path / "a.rbe", settings)
    other = run(checkpoint, tmp_path / "b.rbe", exact)
    assert rotated.tensors[-1].name == ROTATION
    assert other.tensors[-1].name != ROTATION
    assert mean_output_error(rotated) < mean_output_error(other)


def mean_output_error(result):
    """Return the mean relative error of the outputs of the layers' matrices."""
    errors = [own.relative_output_error for own in result.tensors if own.name.startswith("h.")]
    return np.mean([error for error in errors if error is not None])


def test_it_can_be_tuned(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "a.rbe", FINE, tune=2, calib_samples=8)
    assert result.tuning.tuned is not None
    assert result.tensors[-1].name == ROTATION


def test_tensors_are_read_and_written_as_a_checkpoint_has_them(rbe_file, restored, tmp_path):
    with load(rbe_file, threads=1) as model:
        assert model.tensors.keys() == tensor_shapes(CONFIG).keys()
        for name, tensor in model.tensors.items():
            np.testing.assert_allclose(tensor.read(), restored[name], atol=1e-6)
        assert not any(name.startswith(ROTATION) for name in model.parameters())
        before = model.logits(TOKENS)
        for name in ("wte.weight", "h.1.mlp.c_proj.bias", "h.0.attn.c_attn.weight"):
            model.tensors[name] = model.tensors[name].read()
        np.testing.assert_allclose(model.logits(TOKENS), before, atol=5e-3)  # weights of ten
        changed = {
            name: 1.1 * restored[name] + 0.01
            for name in ("h.0.mlp.c_proj.weight", "h.1.ln_2.bias", "ln_f.weight", "wpe.weight")
        }
        for name, values in changed.items():
            model.tensors[name] = values
        expected = gpt2(TOKENS, float64(restored | changed), CONFIG)
        assert relative_error(model.logits(TOKENS), expected) < 2e-3
        model.save(tmp_path / "b.rbe")
    with load(tmp_path / "b.rbe", threads=1) as model:
        assert relative_error(model.logits(TOKENS), expected) < 2e-3


def test_what_a_rotated_stream_cannot_hold_is_refused(rbe_file):
    with load(rbe_file, threads=1) as model:
        with pytest.raises(UsageError, match="residual stream is rotated"):
            model.tensors["h.0.ln_1.weight"] = np.arange(24.0)
        with pytest.raises(UsageError, match="no parameter"):
            model.set_parameters({f"{ROTATION}.column_steps": np.ones(12, np.float32)})
        model.tensors["h.0.ln_1.weight"] = np.full(24, 2.0)
        assert (model.tensors["h.0.ln_1.weight"].read() == 2).all()


@pytest.mark.parametrize("part", ["ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias"])
def test_what_belongs_to_a_trained_layer_norm_can_be_assigned(rbe_file, tmp_path, part):
    with load(rbe_file, threads=1) as model:
        gamma, name = "h.0.ln_2.weight", f"h.0.{part}"
        model.set_parameters({gamma: np.linspace(0.5, 1.5, 24, dtype=np.float32)})
        shown = {name: tensor.read() for name, tensor in model.tensors.items()}
        assert (shown[gamma] == 1).all()
        before = model.logits(TOKENS)
        assert relative_error(before, gpt2(TOKENS, float64(shown), CONFIG)) < 1e-3
        model.tensors[name] = shown[name]
        assert relative_error(model.logits(TOKENS), before) < 1e-3
        for other, tensor in model.tensors.items():
            np.testing.assert_allclose(tensor.read(), shown[other], atol=1e-5)
        model.tensors[name] = changed = 1.1 * shown[name] + 0.01
        expected = gpt2(TOKENS, float64(shown | {name: changed}), CONFIG)
        assert relative_error(model.logits(TOKENS), expected) < 1e-3
        model.save(tmp_path / "b.rbe")
    with load(tmp_path / "b.rbe", threads=1) as model:
        assert relative_error(model.logits(TOKENS), expected) < 1e-3


def test_exact_tensors_after_a_search_have_a_basis_of_their_own(checkpoint, tmp_path, monkeypatch):
    """The search gives up early, and a rule keeps attention lossy."""
    monkeypatch.setattr("rbe_cli.compression.divergence_search._ATTEMPTS", 1)
    rule = Override("attn.*weight", bits=12.0)
    run(checkpoint, tmp_path / "a.rbe", Settings(target_kl=1e-5, override=(rule,)))
    expected = gpt2(TOKENS, float64(checkpoint.tensors), CONFIG)
    with load(tmp_path / "a.rbe", threads=1) as model:
        assert ROTATION not in decode(tmp_path / "a.rbe")
        assert relative_error(model.logits(TOKENS), expected) < 0.01


def test_a_rotated_file_can_be_compressed_again(rbe_file, checkpoint, tmp_path):
    with Container.open(rbe_file) as container:
        again = as_checkpoint(container, "a.rbe")
        run(again, tmp_path / "b.rbe", FINE)
    expected = gpt2(TOKENS, float64(checkpoint.tensors), CONFIG)
    with load(tmp_path / "b.rbe", threads=1) as model:
        assert relative_error(model.logits(TOKENS), expected) < 0.07
