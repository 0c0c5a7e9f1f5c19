"""A rotated residual stream: the same function, whatever the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import second_reader
from reference_gpt2 import gpt2
from small_models import (
    float64,
    folded_tensors,
    random_tensors,
    relative_error,
    rotated_tensors,
    small_config,
)

from rbe_cli.codec.stream_rotation import (
    StreamRotation,
    coded_vectors,
    householder,
    inner_rotation,
    unrotated,
)
from rbe_cli.memory_needs import MemoryRefusedError
from rbe_cli.model.tensor_names import ROTATION, tensor_shapes

TOKENS = np.random.default_rng(0).integers(0, 211, 20)
OPTIONS = [
    {},
    {"tie_word_embeddings": False},
    {"n_embd": 2, "n_head": 1},
    {"n_embd": 9, "n_head": 3},
    {"layer_norm_epsilon": 0.1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_rotated_model_has_the_same_logits(options):
    config = small_config(**options)
    tensors = random_tensors(config)
    expected = gpt2(TOKENS, float64(tensors), config)
    assert relative_error(gpt2(TOKENS, float64(folded_tensors(tensors)), config), expected) < 1e-5
    found = gpt2(TOKENS, float64(rotated_tensors(tensors, config)[0]), config)
    assert relative_error(found, expected) < 1e-5


def test_folded_layer_norms_do_nothing():
    tensors = folded_tensors(random_tensors(small_config()))
    for layer in range(3):
        for norm, matrix in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
            assert (tensors[f"h.{layer}.{norm}.weight"] == 1).all()
            assert (tensors[f"h.{layer}.{norm}.bias"] == 0).all()
            assert np.abs(tensors[f"h.{layer}.{matrix}.weight"].mean(axis=0)).max() < 1e-7
    assert not (tensors["ln_f.weight"] == 1).any()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tensors_are_restored(options):
    config = small_config(**options)
    expected = folded_tensors(random_tensors(config))
    tensors, rotation = rotated_tensors(expected, config)
    for name in tensor_shapes(config):
        found = rotation.restored(name, tensors)
        np.testing.assert_allclose(found, expected[name], atol=2e-6)


def test_trained_layer_norms_are_folded_where_tensors_are_restored():
    config = small_config()
    tensors, rotation = rotated_tensors(random_tensors(config), config)
    rng = np.random.default_rng(1)
    for layer, norm in ((0, "ln_1"), (2, "ln_2")):
        for part in ("weight", "bias"):
            tensors[f"h.{layer}.{norm}.{part}"] = rng.normal(1, 0.3, 42).astype(np.float32)
    tensors["h.1.ln_1.weight"][:] = 2  # is even, and stays
    tensors["h.1.ln_1.bias"][:] = rng.normal(0, 0.3, 42)
    found = {name: rotation.restored(name, tensors) for name in tensor_shapes(config)}
    expected = gpt2(TOKENS, float64(tensors), config)
    assert relative_error(gpt2(TOKENS, float64(found), config), expected) < 1e-5
    assert (found["h.1.ln_1.weight"] == 2).all()
    assert (found["h.0.ln_1.weight"] == 1).all()
    assert found["h.1.ln_1.bias"].any()


def test_a_huge_rotation_is_refused_before_it_takes_memory():
    coded = np.broadcast_to(np.float32(0), (1 << 16, 1 << 15))
    with pytest.raises(MemoryRefusedError, match="rotation"):
        StreamRotation.of_coded(coded)


@given(st.integers(2, 40), st.integers(0, 2**32))
def test_a_coded_rotation_is_read_as_by_the_second_reader(width, seed):
    coded = np.random.default_rng(seed).standard_normal((width, width // 2))
    matrix = StreamRotation.of_coded(coded).matrix
    np.testing.assert_allclose(matrix, second_reader.rotation(coded), atol=1e-6)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(width), atol=3e-6)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=3e-6)


@given(st.integers(2, 40), st.integers(0, 2**32))
def test_a_rotation_is_coded_without_loss(width, seed):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((width - 1, width - 1)))
    coded = coded_vectors(rotation)
    assert coded.shape == (width, width // 2)
    np.testing.assert_allclose(inner_rotation(coded), rotation, atol=1e-10)


@pytest.mark.parametrize("size", [2, 3, 50])
def test_the_householder_reflection_swaps_the_ones_and_the_last_axis(size):
    ones, last = np.full((size, 1), size**-0.5), np.eye(size)[:, -1:]
    np.testing.assert_allclose(householder(ones), last, atol=1e-14)
    np.testing.assert_allclose(householder(last), ones, atol=1e-14)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_states_are_turned_there_and_back(kind):
    _, rotation = rotated_tensors(random_tensors(small_config()), small_config())
    states = np.random.default_rng(0).standard_normal((2, 3, 42)).astype(kind)
    turned = rotation.into(states)
    assert turned.dtype == (np.float64 if kind is np.float64 else np.float32)
    np.testing.assert_allclose(turned, states.astype(np.float64) @ rotation.matrix, atol=1e-5)
    np.testing.assert_allclose(unrotated(rotation, turned), states, atol=1e-5)
    assert unrotated(None, states) is states


def test_what_comes_before_the_head_is_one_matrix():
    config = small_config()
    tensors, rotation = rotated_tensors(random_tensors(config), config)
    gamma, beta = tensors["ln_f.weight"], tensors["ln_f.bias"]
    z = np.random.default_rng(0).standard_normal((5, 42)).astype(np.float32)
    matrix, bias = rotation.mixing(gamma, beta)
    expected = rotation.into(rotation.out_of(z) * gamma + beta)
    np.testing.assert_allclose(z @ matrix + bias, expected, atol=1e-5)
    assert ROTATION in tensors
