"""Compress models whose weights and shapes are rare or do not occur in trained models."""

import json

import numpy as np
import pytest
from compressing import by_name, decode, relative, run, with_tensors
from safetensors.numpy import save_file
from small_models import random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.compression.decorrelated_heads import with_decorrelated_heads
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.container.reader import Container
from rbe_cli.errors import CheckpointError, UsageError

# Unusual weights


def test_vectors_have_the_form_that_suits_them(checkpoint, tmp_path):
    constant = np.full(64, 0.3, np.float32)
    outlier = checkpoint.tensors["h.1.ln_2.weight"].copy()
    outlier[5] = 3000
    changed = with_tensors(
        checkpoint,
        h__0__ln_2__bias=np.zeros(64, np.float32),
        h__1__ln_2__weight=outlier,
        ln_f__bias=constant,
    )
    settings = Settings(4.0, override=(Override("h.0.ln_1", "float32"),))
    tensors = by_name(run(changed, tmp_path / "a.rbe", settings))
    decoded = decode(tmp_path / "a.rbe")
    for name, codec in [("ln_f.bias", "scalar"), ("h.0.ln_2.bias", "scalar")]:
        assert tensors[name].codec == codec
        np.testing.assert_array_equal(decoded[name], changed.tensors[name])
    assert tensors["h.0.ln_1.weight"].codec == "float32"
    assert tensors["h.1.ln_2.weight"].codec == "coded"
    error = decoded["h.1.ln_2.weight"] - outlier
    assert relative(error, outlier) < 1e-3
    assert relative(error[6:], outlier[6:]) < 0.1  # the outlier does not make others coarse


def test_matrices_of_zeros_stay_zeros(checkpoint, tmp_path):
    zeros = np.zeros((64, 64), np.float32)
    changed = with_tensors(
        checkpoint,
        h__0__attn__c_proj__weight=zeros,
        h__1__mlp__c_fc__weight=np.zeros((64, 130), np.float32),
    )
    result = run(changed, tmp_path / "a.rbe")
    decoded = decode(tmp_path / "a.rbe")
    for name in ("h.0.attn.c_proj.weight", "h.1.mlp.c_fc.weight"):
        np.testing.assert_array_equal(decoded[name], 0)
        assert by_name(result)[name].relative_error == 0
        assert by_name(result)[name].bits_per_weight < 1
    assert result.bits_per_weight == pytest.approx(4, rel=0.01)


def test_outliers_survive(checkpoint, tmp_path):
    weights = checkpoint.tensors["h.0.mlp.c_proj.weight"].copy()
    weights[7, 9] = 50
    changed = with_tensors(checkpoint, h__0__mlp__c_proj__weight=weights)
    settings = Settings(7.0, override=(Override("h.0.mlp.c_proj", bits=7.0),))
    run(changed, tmp_path / "a.rbe", settings)
    decoded = decode(tmp_path / "a.rbe")["h.0.mlp.c_proj.weight"]
    assert decoded[7, 9] == pytest.approx(50, rel=0.01)
    assert relative((weights - decoded)[8:], weights[8:]) < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_weights_that_are_no_numbers_are_refused(config, tmp_path, name, value):
    tensors = random_tensors(config)
    tensors[name].flat[3] = value
    folder, path = tmp_path / "checkpoint", tmp_path / "a.rbe"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    raw = {key: getattr(config, key) for key in config.__struct_fields__}
    (folder / "config.json").write_text(json.dumps(raw))
    path.write_text("precious")
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN or infinite values"):
        run(open_checkpoint(str(folder)), path, force=True)
    assert path.read_text() == "precious"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_overflow_are_refused(checkpoint, tmp_path):
    huge = np.full((64, 130), 3e38, np.float32)
    changed = with_tensors(checkpoint, h__0__mlp__c_fc__weight=huge)
    with pytest.raises(CheckpointError, match="overflow"):
        run(changed, tmp_path / "a.rbe")
    assert list(tmp_path.iterdir()) == []


# Unusual shapes


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"n_head": 1, "n_embd": 8, "n_inner": 1, "vocab_size": 3000},
        {"vocab_size": 2500, "n_positions": 2},
        {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": True},
    ],
    ids=["untied", "narrow", "many tokens", "options"],
)
def test_any_shape_can_be_compressed(tmp_path, changes, folder):
    config = small_config(**{"n_layer": 1} | changes)
    checkpoint = Checkpoint(config, random_tensors(config), None, "odd", "xxh3:0", 1)
    settings = Settings(9.0)  # a tiny model's header and vectors have their size
    result = run(checkpoint, tmp_path / "a.rbe", settings, calib_samples=8)
    decoded = decode(tmp_path / "a.rbe")
    assert result.bits_per_weight == pytest.approx(9, rel=0.01)
    plans = make_plan(checkpoint.config, settings)
    for name, original in with_decorrelated_heads(
        checkpoint.config, checkpoint.tensors, plans, folder
    ).items():
        assert relative(decoded[name] - original, original) < 0.1
    with Container.open(tmp_path / "a.rbe") as container:
        assert container.tokenizer_json() is None


def test_a_context_of_one_token_predicts_nothing(tmp_path):
    config = small_config(n_positions=1, n_layer=1)
    checkpoint = Checkpoint(config, random_tensors(config), None, "odd", "xxh3:0", 1)
    with pytest.raises(UsageError, match="nothing to predict"):
        run(checkpoint, tmp_path / "a.rbe")
