"""Rotations of the residual stream that save bits, against what covariances promise."""

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import (
    correlated_tensors,
    float64,
    random_tensors,
    relative_error,
    small_config,
)

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.stream_rotation import StreamRotation, folded
from rbe_cli.compression.rotated_stream import with_rotated_stream
from rbe_cli.compression.rotation_search import find_rotation
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.model.tensor_names import ROTATION
from rbe_cli.progress import no_progress
from rbe_cli.runtime.thread_team import get_team
from rbe_cli.weights.on_demand import OnDemand

CONFIG = small_config(n_embd=24, vocab_size=900, n_inner=96, n_positions=64)


def search(tensors, config, threads=1):
    originals = OnDemand(tensors, lambda name: folded(name, tensors))
    return find_rotation(config, originals, get_team(threads))


def powers(rows):
    """Log powers of the elements of vectors of length 1, in bits."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.log2(np.mean(rows**2, axis=0)) / 2


def test_correlated_weights_are_turned_to_their_axes():
    tensors = correlated_tensors(CONFIG)
    data = search(tensors, CONFIG)
    rotation = StreamRotation.of_coded(ECTCQ.decode(data, (24, 12)))
    embedding = tensors["wte.weight"]
    saved = (powers(embedding) - powers(rotation.into(embedding))).sum()
    assert 8 * len(data) < saved * len(embedding)
    # What the principal axes would save:
    moment = np.cov((embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).T)
    values = np.linalg.eigvalsh(moment)[1:]
    most = (np.log2(np.diag(moment)).sum() - np.log2(values).sum()) / 2
    assert saved > 0.5 * most


def test_independent_weights_stay_as_they_are():
    assert search(random_tensors(CONFIG), CONFIG) is None


@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_streams(width):
    config = small_config(n_embd=width, n_head=1)
    assert search(correlated_tensors(config), config) is None


def test_zeros_and_huge_weights(recwarn):
    tensors = correlated_tensors(CONFIG)
    tensors["h.0.mlp.c_fc.weight"][:] = 0
    tensors["h.1.mlp.c_proj.weight"] *= 1e30
    tensors["h.2.attn.c_proj.weight"] *= 1e-35
    assert search(tensors, CONFIG) is not None
    assert not recwarn.list


def test_a_layer_norm_that_overflows_is_not_rotated(recwarn):
    tensors = correlated_tensors(CONFIG)
    tensors["h.1.ln_1.weight"] = np.full_like(tensors["h.1.ln_1.weight"], 3e38)
    tensors["h.1.attn.c_attn.weight"] *= 1e3
    assert search(tensors, CONFIG) is None
    assert not recwarn.list


def test_threads_give_the_same_bytes():
    tensors = correlated_tensors(CONFIG)
    assert search(tensors, CONFIG, threads=2) == search(tensors, CONFIG)


def checkpoint_of(tensors):
    return Checkpoint(CONFIG, tensors, None, "correlated", "xxh3:0", 1)


def rotate(checkpoint, folder, *rules):
    plans = make_plan(CONFIG, Settings(4.0, override=rules))
    return with_rotated_stream(checkpoint, plans, folder, get_team(1), no_progress)


def test_the_model_computes_the_same(folder):
    tensors = correlated_tensors(CONFIG)
    changed, stored = rotate(checkpoint_of(tensors), folder)
    assert stored.name == ROTATION
    assert [*changed] == [*tensors, ROTATION]
    tokens = np.arange(40)
    expected = gpt2(tokens, float64(tensors), CONFIG)
    assert relative_error(gpt2(tokens, float64(dict(changed)), CONFIG), expected) < 1e-4


def test_what_was_found_is_kept(folder, monkeypatch):
    checkpoint = checkpoint_of(correlated_tensors(CONFIG))
    before, stored = rotate(checkpoint, folder)
    values = dict(before)
    for name in ("find_rotation", "folded"):
        monkeypatch.setattr(f"rbe_cli.compression.rotated_stream.{name}", pytest.fail)
    again, same = rotate(checkpoint, folder)
    assert same == stored
    for name, own in values.items():
        np.testing.assert_array_equal(again[name], own)


@pytest.mark.parametrize(
    "rule",
    [
        Override(r"h\.0\.attn\.c_attn\.bias", "float32"),
        Override("wpe", "float16"),
        Override("mlp", "fixed", bits=4),
    ],
    ids=str,
)
def test_a_tensor_that_is_kept_or_of_another_codec_prevents_it(folder, rule):
    checkpoint = checkpoint_of(correlated_tensors(CONFIG))
    changed, stored = rotate(checkpoint, folder, rule)
    assert changed is checkpoint.tensors
    assert stored is None


def test_the_last_layer_norm_may_be_kept(folder):
    checkpoint = checkpoint_of(correlated_tensors(CONFIG))
    assert rotate(checkpoint, folder, Override(r"ln_f", "float32"))[1] is not None
