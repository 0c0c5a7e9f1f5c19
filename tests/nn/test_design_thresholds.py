"""The thresholds that the original design set itself, with matrices that are really compressed.

Weights are random, as in the design's tests, of the spread that a GPT-2 begins with.
"""

import tracemalloc

import numpy as np
import pytest
from small_layers import random_input

from rbe_cli import compress_block
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import layer_shapes
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.runtime.traced_memory import traced_peak

WIDTH, HEADS = 256, 4
CODECS = [("ectcq", 4), ("fixed", 4), ("fixed", 8)]


@pytest.fixture(scope="module")
def tensors():
    """A block's, as a checkpoint names and shapes them."""
    rng = np.random.default_rng(0)
    config = Gpt2Config(1, 1, WIDTH, 1, HEADS, 4 * WIDTH)
    found = {}
    for name, shape in layer_shapes(config).items():
        found[name] = rng.normal(0, 0.02, shape).astype(np.float32)
        if name in ("ln_1.weight", "ln_2.weight"):
            found[name] += 1
    return found


@pytest.fixture(scope="module")
def dense(tensors, fast):
    """The same block with matrices in float32."""
    config = Gpt2Config(1, 64, WIDTH, 1, HEADS, 4 * WIDTH)
    ends = {name: np.zeros((1 if name == "wte" else 64, WIDTH)) for name in ("wte", "wpe")}
    whole = {f"{name}.weight": own.astype(np.float32) for name, own in ends.items()}
    whole |= {f"h.0.{name}": own for name, own in tensors.items()}
    for kind in ("weight", "bias"):
        whole[f"ln_f.{kind}"] = tensors[f"ln_1.{kind}"]
    return Gpt2.from_checkpoint(config, whole, fast).blocks[0]


def error(found, expected):
    """As the design has it: the norm of the difference over that of what is expected."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def bytes_in_use(block, x):
    """What the parameters take, and what a forward pass needs beside them."""
    block(x)  # makes what is made once
    tracemalloc.start()
    try:
        with traced_peak(block.attn.kernels.buffers) as found:
            block(x)
    finally:
        tracemalloc.stop()
    usage = block.memory_usage()
    return usage.parameter_bytes + usage.decoded_bytes, found.peak_bytes


@pytest.mark.parametrize(("codec", "bits"), CODECS)
def test_a_block_errs_by_less_than_2_percent(tensors, dense, codec, bits):
    block = compress_block(tensors, HEADS, bits, codec=codec, threads=1)
    x = random_input(8, 64, WIDTH)
    assert 0 < error(block(x), dense(x)) < 2e-2


@pytest.mark.parametrize(("codec", "bits"), CODECS)
def test_a_block_takes_60_percent_less_memory(tensors, dense, codec, bits):
    """Parameters and what a pass needs, each by itself, with an error under 5e-2."""
    block = compress_block(tensors, HEADS, bits, codec=codec, threads=1)
    block.memory_limit = 300_000
    x = random_input(8, 64, WIDTH)
    pairs = zip(bytes_in_use(block, x), bytes_in_use(dense, x), strict=True)
    for own, reference in pairs:
        assert own < 0.4 * reference
    assert 0 < error(block(x), dense(x)) < 5e-2


def test_a_feed_forward_part_errs_by_less_than_1_percent(tensors, dense):
    block = compress_block(tensors, HEADS, 8, threads=1)
    x = random_input(4, 32, WIDTH)
    assert 0 < error(block.mlp(x), dense.mlp(x)) < 1e-2
