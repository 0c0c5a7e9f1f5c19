"""Layers that are compressed from arrays."""

from typing import Any

import numpy as np
import pytest
from reference_gpt2 import block as reference_block
from small_models import random_tensors, small_config

import rbe_cli
from rbe_cli.weights.weight_forms import dense

K, N = 128, 96
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(0, 0.02, (K, N)).astype(np.float32)
BIAS = RNG.normal(0, 0.1, N).astype(np.float32)
X = RNG.normal(0, 1, (3, 5, K)).astype(np.float32)
CONFIG = small_config(n_layer=1, n_embd=64, n_head=4, n_inner=160)
TENSORS = random_tensors(CONFIG)
BLOCK = {name.removeprefix("h.0."): own for name, own in TENSORS.items() if name[:2] == "h."}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("codec", "bits", "most"),
    [
        # A Gaussian of variance 1 loses 2^-bits at the bound of rate-distortion theory.
        ("ectcq", 3, 0.20),
        ("ectcq", 4, 0.10),
        ("ectcq", 6, 0.03),
        ("fixed", 4, 0.15),
        ("fixed", 8, 0.02),
        ("classic", 8, 1.0),
    ],
)
def test_a_linear_layer_computes_nearly_what_its_arrays_do(
    codec: Any, bits: float, most: float
) -> None:
    layer = rbe_cli.compress_linear(WEIGHT, BIAS, bits, codec=codec, threads=1)
    assert layer.weight.shape == (K, N)
    assert relative_error(layer(X), X @ WEIGHT + BIAS) < most
    assert relative_error(dense(layer.weight), WEIGHT) < most
    np.testing.assert_array_equal(layer.bias, BIAS)


def test_a_layer_without_bias() -> None:
    layer = rbe_cli.compress_linear(WEIGHT, bits=6, threads=1)
    assert not layer.has_bias
    assert relative_error(layer(X), X @ WEIGHT) < 0.03


@pytest.mark.parametrize("codec", ["ectcq", "fixed"])
def test_calibration_inputs_lower_the_error_of_the_outputs(codec: Any) -> None:
    mixing = RNG.normal(0, 1, (8, K)).astype(np.float32)
    states = RNG.normal(0, 1, (400, 8)).astype(np.float32) @ mixing  # in eight directions
    states += 0.01 * RNG.normal(0, 1, states.shape).astype(np.float32)
    fresh = RNG.normal(0, 1, (50, 8)).astype(np.float32) @ mixing
    plain = rbe_cli.compress_linear(WEIGHT, bits=4, codec=codec, threads=1)
    calibrated = rbe_cli.compress_linear(WEIGHT, bits=4, codec=codec, inputs=states, threads=1)
    expected = fresh @ WEIGHT
    assert relative_error(calibrated(fresh), expected) < 0.7 * relative_error(
        plain(fresh), expected
    )


def test_a_block_computes_nearly_what_its_arrays_do() -> None:
    x = RNG.normal(0, 1, (2, 9, 64)).astype(np.float32)
    expected = np.stack([reference_block(own, 0, TENSORS, CONFIG) for own in x])
    errors = {}
    for bits in (4, 8):
        block = rbe_cli.compress_block(BLOCK, 4, bits, threads=1)
        errors[bits] = relative_error(block(x), expected)
    assert errors[8] < 0.02
    assert errors[8] < errors[4] < 0.2
    calibrated = rbe_cli.compress_block(BLOCK, 4, 4, inputs=x, threads=1)
    assert relative_error(calibrated(x), expected) < errors[4]


def test_a_block_that_is_compressed_takes_less_memory() -> None:
    block = rbe_cli.compress_block(BLOCK, 4, 4, threads=1)
    for name, linear in (("attn.c_attn", block.attn.c_attn), ("mlp.c_proj", block.mlp.c_proj)):
        assert linear.weight.nbytes < 0.4 * BLOCK[f"{name}.weight"].nbytes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weight": np.ones(3)}, r"weight is a matrix \[inputs, outputs\], not an array of shape"),
        ({"weight": np.ones((0, 3))}, "weight is a matrix"),
        ({"weight": np.full((4, 3), np.inf)}, "weight takes finite numbers"),
        ({"bias": np.ones(3)}, r"`bias` has the shape \(96,\), not \(3,\)"),
        ({"inputs": np.ones((4, 3))}, r"`inputs` are \[tokens, 128\], not an array of shape"),
        ({"bits": 0}, "`bits` = 0 is not between 1.0 and 12.0"),
        ({"bits": 3, "codec": "fixed"}, "the codec fixed needs bits = 2, 4 or 8, not 3"),
        ({"codec": "zip"}, "`codec` is one of classic, ectcq, fixed, not 'zip'"),
    ],
)
def test_arrays_that_are_no_linear_layer(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(rbe_cli.UsageError, match=sentence):
        rbe_cli.compress_linear(**{"weight": WEIGHT} | changes)


@pytest.mark.parametrize(
    ("changes", "n_head", "sentence"),
    [
        ({"mlp.c_fc.bias": None}, 4, "`tensors` lack mlp.c_fc.bias"),
        ({"ln_2.bias": np.ones(3)}, 4, r"ln_2.bias has the shape \(64,\), not \(3,\)"),
        ({"ln_1.weight": np.ones((3, 2))}, 4, "are vectors that are not empty"),
        ({}, 5, "`n_head` 5 does not divide the width of 64"),
        ({}, 0, "`n_head` 0 does not divide"),
    ],
)
def test_arrays_that_are_no_block(changes: dict[str, Any], n_head: int, sentence: str) -> None:
    tensors = {name: own for name, own in (BLOCK | changes).items() if own is not None}
    with pytest.raises(rbe_cli.UsageError, match=sentence):
        rbe_cli.compress_block(tensors, n_head)
