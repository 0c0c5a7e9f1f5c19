import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import float64

from rbe_cli.compression.decorrelated_heads import with_decorrelated_heads
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan


def test_the_model_computes_the_same(checkpoint, folder):
    changed = with_decorrelated_heads(
        checkpoint.config, checkpoint.tensors, make_plan(checkpoint.config, Settings(4.0)), folder
    )
    tokens = np.arange(40)
    before, after = (
        gpt2(tokens, float64(tensors), checkpoint.config)
        for tensors in (checkpoint.tensors, changed)
    )
    assert np.abs(after - before).max() < 1e-5 * np.abs(before).max()
    moved = {n for n, tensor in changed.items() if (tensor != checkpoint.tensors[n]).any()}
    parts = ("c_attn.weight", "c_attn.bias", "c_proj.weight")
    assert moved == {f"h.{layer}.attn.{part}" for layer in (0, 1) for part in parts}


def test_layers_with_a_tensor_that_is_kept_stay_as_they_are(checkpoint, new_folder):
    for rule in (
        Override(r"h\.0\.attn\.c_attn\.bias", "float32"),
        Override("h.0.*proj", "classic"),
    ):
        changed = with_decorrelated_heads(
            checkpoint.config,
            checkpoint.tensors,
            make_plan(checkpoint.config, Settings(4.0, override=(rule,))),
            new_folder(),
        )
        for name, tensor in changed.items():
            same = (tensor == checkpoint.tensors[name]).all()
            assert same == (not name.startswith("h.1.attn") or name == "h.1.attn.c_proj.bias")
    fixed = Settings(default_codec="fixed", default_bits=4.0)
    for name, tensor in with_decorrelated_heads(
        checkpoint.config, checkpoint.tensors, make_plan(checkpoint.config, fixed), new_folder()
    ).items():
        np.testing.assert_array_equal(tensor, checkpoint.tensors[name])


def test_what_was_changed_is_kept(checkpoint, folder, monkeypatch):
    plans = make_plan(checkpoint.config, Settings(4.0))
    before = dict(with_decorrelated_heads(checkpoint.config, checkpoint.tensors, plans, folder))
    monkeypatch.setattr("rbe_cli.compression.decorrelated_heads.decorrelate", pytest.fail)
    again = with_decorrelated_heads(checkpoint.config, checkpoint.tensors, plans, folder)
    for name, tensor in before.items():
        np.testing.assert_array_equal(again[name], tensor)
