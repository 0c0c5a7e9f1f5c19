"""The assembled model against the obvious numpy GPT-2, dense and with weights in panels."""

from typing import get_args

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import as_panels, float64, random_tensors, relative_error, small_config

from rbe_cli.errors import UsageError
from rbe_cli.model.config import Activation
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache

OPTIONS = [
    *({"activation_function": name} for name in get_args(Activation)),
    {"layer_norm_epsilon": 0.1},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"tie_word_embeddings": False},
    {"n_head": 1, "n_inner": 5},
    {"n_embd": 64, "n_head": 64, "n_layer": 1, "vocab_size": 1, "n_positions": 96},
]


def random_tokens(config, *shape):
    return np.random.default_rng(9).integers(0, config.vocab_size, shape)


def exact_logits(tokens, tensors, config):
    """float64 [batch, seq, vocab]."""
    return np.stack([gpt2(row, float64(tensors), config) for row in tokens])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_dense_logits_equal_the_reference(kernels, options):
    config = small_config(**options)
    tensors = random_tensors(config)
    tokens = random_tokens(config, 2, 17)
    logits = Gpt2.from_checkpoint(config, tensors, kernels).forward(tokens)
    assert logits.dtype == np.float32
    assert relative_error(logits, exact_logits(tokens, tensors, config)) < 1e-4


@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": False}], ids=str)
@pytest.mark.parametrize(("largest", "width"), [(3, 2), (7, 3), (30, 5), (127, 7)])
def test_panel_logits_equal_the_reference(kernels, options, largest, width):
    config = small_config(**options)
    panels, decoded = as_panels(random_tensors(config), largest)
    assert panels["wte.weight"].widths.max() == width
    tokens = random_tokens(config, 2, 17)
    logits = Gpt2(config, panels, kernels).forward(tokens)
    assert relative_error(logits, exact_logits(tokens, decoded, config)) < 1e-4


def test_dense_and_panels_may_be_mixed(fast):
    config = small_config()
    panels, decoded = as_panels(random_tensors(config), 127)
    mixed = panels | {"h.1.mlp.c_fc.weight": decoded["h.1.mlp.c_fc.weight"]}
    tokens = random_tokens(config, 1, 9)
    logits = Gpt2(config, mixed, fast).forward(tokens)
    assert relative_error(logits, exact_logits(tokens, decoded, config)) < 1e-4


def test_last_only_is_the_last_of_all(kernels):
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), kernels)
    tokens = random_tokens(config, 3, 8)
    last = model.forward(tokens, last_only=True)
    np.testing.assert_allclose(last, model.forward(tokens)[:, -1], rtol=1e-5, atol=1e-5)


def test_read_only_tensors_are_accepted(fast):
    config = small_config()
    tensors = random_tensors(config)
    for tensor in tensors.values():
        tensor.flags.writeable = False
    tokens = random_tokens(config, 1, 5)
    logits = Gpt2.from_checkpoint(config, tensors, fast).forward(tokens)
    assert relative_error(logits, exact_logits(tokens, tensors, config)) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_observer_sees_every_input_and_every_block(fast, tied):
    config = small_config(tie_word_embeddings=tied)
    tensors = random_tensors(config)
    model = Gpt2.from_checkpoint(config, tensors, fast)
    tokens, seen = random_tokens(config, 2, 6), {}
    logits = model.forward(tokens, observe=lambda name, x: seen.update({name: x.copy()}))
    assert list(seen)[:5] == [
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
        "h.0",
    ]
    assert len(seen) == 5 * config.n_layer + 1
    assert seen["h.1.mlp.c_proj.weight"].shape == (12, config.n_inner)
    assert seen["h.2"].shape == (2, 6, config.n_embd)
    head = "wte.weight" if tied else "lm_head.weight"
    product = seen[head] @ tensors[head].T  # [tokens, d] -> [tokens, vocab]
    np.testing.assert_allclose(product, logits.reshape(12, -1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(logits, model.forward(tokens))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[]], "no tokens"),
        ([[3, -1]], "token id -1 is outside the vocabulary of 211"),
        ([[3, 211]], "token id 211 is outside"),
        ([[1] * 97], "97 tokens are more than the model's context of 96"),
    ],
)
def test_bad_tokens_are_refused(fast, tokens, message):
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), fast)
    with pytest.raises(UsageError, match=message):
        model.forward(np.array(tokens, np.int64))


@pytest.mark.parametrize("largest", [None, 7])
def test_attention_weights_of_the_layers_asked_for(kernels, largest):
    config = small_config()
    tensors = random_tensors(config)
    model = (
        Gpt2.from_checkpoint(config, tensors, kernels)
        if largest is None
        else Gpt2(config, as_panels(tensors, largest)[0], kernels)
    )
    tokens = random_tokens(config, 2, 9)
    every = model.attention_weights(tokens)
    assert list(every) == [0, 1, 2]
    past = np.tril(np.ones((9, 9), bool))
    for weights in every.values():
        assert weights.shape == (2, 3, 9, 9)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        assert (weights[..., past] > 0).all()
        assert (weights[..., ~past] == 0).all()
    one = model.attention_weights(tokens, [1])
    assert list(one) == [1]
    assert relative_error(one[1], every[1]) < 1e-4
    mask = np.ones((2, 1, 1, 9), bool)
    mask[..., 2] = False
    assert (model.attention_weights(tokens, [1], mask)[1][..., 2] == 0).all()


def test_a_forward_pass_takes_attention_weights(kernels):
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), kernels)
    tokens, cache = random_tokens(config, 2, 9), KVCache(config, 2)
    whole = model.attention_weights(tokens)
    model.forward(tokens[:, :5], cache)
    rest = {layer: np.empty((2, 3, 4, 9), np.float32) for layer in (0, 2)}
    logits = model.forward(tokens[:, 5:], cache, weights=rest)
    assert relative_error(logits, model.forward(tokens)[:, 5:]) < 1e-4
    for layer, weights in rest.items():
        np.testing.assert_allclose(weights, whole[layer][:, :, 5:], rtol=1e-3, atol=1e-5)
