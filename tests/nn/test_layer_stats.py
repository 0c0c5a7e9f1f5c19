"""What layers count of their calls, and the memory that they report."""

import tracemalloc

import numpy as np
import pytest
from small_layers import random_block, random_input
from small_models import as_panels, random_tensors, small_config

from rbe_cli.bench.operator_names import Op
from rbe_cli.bench.operator_shapes import Shape, flop_count
from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.forward_pass import profiled
from rbe_cli.model.tensor_names import is_matrix, parameter_count
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients, loss_and_gradients
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.nn.layer_stats import LayerStats
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.profile import LayerProfile
from rbe_cli.runtime.buffer_pool import BufferPool

TOKENS = np.random.default_rng(9).integers(0, 211, (2, 17))


def small_model(kernels, largest=7, **changes):
    config = small_config(**changes)
    return Gpt2(config, as_panels(random_tensors(config), largest)[0], kernels)


# Statistics


def test_statistics_are_averages_with_extremes(monkeypatch):
    """Three calls of 5, 2 and 11 microseconds."""
    moments = iter([0, 5000, 6000, 8000, 9000, 20_000])
    monkeypatch.setattr("rbe_cli.nn.layer_stats.perf_counter_ns", lambda: next(moments))
    stats = LayerStats()
    assert (stats.average_ns, stats.average_operations, stats.gflops) == (0, 0, 0)
    for operations in (100, 200, 600):
        with stats.measured(operations, BufferPool()):
            pass
    assert (stats.calls, stats.operations, stats.total_ns) == (3, 900, 18_000)
    assert (stats.min_ns, stats.max_ns, stats.average_ns) == (2000, 11_000, 6000)
    assert stats.average_operations == 300
    assert stats.gflops == 900 / 18_000
    assert stats.peak_memory_bytes == 0  # nothing traces


def test_a_call_that_fails_does_not_count():
    stats = LayerStats()
    with pytest.raises(ValueError, match="wrong"), stats.measured(1, BufferPool()):
        raise ValueError("wrong")
    assert stats == LayerStats()


def test_every_layer_of_a_model_counts(kernels):
    model = small_model(kernels)
    plain = model.forward(TOKENS)
    model.enable_stats()
    for _ in range(2):
        np.testing.assert_array_equal(model.forward(TOKENS), plain)
    paths = [path for path, _ in model.layers()]
    assert paths[:9] == [
        "wte", "wpe", "h.0", "h.0.ln_1", "h.0.attn", "h.0.attn.c_attn", "h.0.attn.c_proj",
        "h.0.ln_2", "h.0.mlp",
    ]  # fmt: skip
    assert len(paths) == len(set(paths)) == 2 + 3 * 9 + 2
    for path, layer in model.layers():
        is_fused = path.endswith(("ln_1", "ln_2"))
        assert layer.stats.calls == (0 if is_fused else 2), path
        assert (layer.stats.total_ns > 0) == (not is_fused)
        assert 2 * layer.stats.min_ns <= layer.stats.total_ns <= 2 * layer.stats.max_ns
    blocks = sum(block.stats.operations for block in model.blocks)
    ends = model.ln_f.stats.operations + model.head.stats.operations
    assert model.stats.operations == blocks + ends
    model.disable_stats()
    assert all(layer.stats is None for _, layer in model.layers())


def test_operations_are_those_of_the_benchmark(kernels):
    shape = Shape(2, 9, 20)
    block = Gpt2(shape.config(), bench_tensors(shape), kernels).blocks[0]
    layers = {
        Op.layernorm: block.ln_1,
        Op.linear: block.attn.c_proj,
        Op.feedforward: block.mlp,
        Op.attention: block.attn,
        Op.block: block,
    }
    x, grad = random_input(2, 9, 20), random_input(2, 9, 20, seed=1)
    block.fuses_layers = False
    block.enable_stats()
    block(x)
    _, saved = block.record(x)
    inner = block.layers()
    block.enable_stats()
    block(x)
    block.backward(saved, grad, Gradients())
    for op, layer in layers.items():
        # The backward pass normalises again, which counts as forward passes of the LayerNorms.
        assert layer.stats.operations // layer.stats.calls == flop_count(op, shape)
        assert layer.backward_stats.operations == flop_count(op, shape, backward=True)
        assert layer.backward_stats.calls == 1
    assert len(list(inner)) == 8


def bench_tensors(shape):
    return as_panels(random_tensors(shape.config()), 7)[0]


def test_what_the_cache_holds_counts_too(kernels):
    """Token by token or at once: the same number of operations."""
    model = small_model(kernels)
    cache, counted = KVCache(model.config, 2), []
    model.enable_stats()
    for step in range(17):
        model.forward(TOKENS[:, step : step + 1], cache)
    counted.append(model.stats.operations)
    model.enable_stats()
    model.forward(TOKENS)
    counted.append(model.stats.operations)
    assert counted[0] == counted[1]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_backward_passes_count_apart(kernels, checkpoint):
    model = small_model(kernels)
    model.enable_stats()
    loss_and_gradients(model, TOKENS, checkpoint=checkpoint)
    for path, layer in model.layers():
        assert layer.backward_stats.calls == 1, path
    for block in model.blocks:
        assert block.stats.calls == 1


# Peak memory


def test_equal_layers_need_equal_memory(fast):
    """The first borrows what the next ones borrow again, and yet needs no more than they do."""
    config = small_config(n_layer=4, n_embd=84, n_inner=300)
    panels = as_panels(random_tensors(config), 7)[0]
    for name in filter(is_matrix, panels):
        assert panels[name].record  # it is made once, and stays
    model = Gpt2(config, panels, fast)
    profiles = profiled(model, TOKENS[0])
    assert [profile.layer for profile in profiles] == [0, 1, 2, 3]
    peaks = [profile.peak_memory_bytes for profile in profiles]
    assert max(peaks) - min(peaks) < 0.01 * min(peaks)
    for profile in profiles:
        parts = (
            profile.ln_1_ns, profile.attention_ns, profile.ln_2_ns, profile.feed_forward_ns,
            profile.residual_ns,
        )  # fmt: skip
        assert min(parts) > 0
        assert profile.total_ns == sum(parts)
    assert all(block.stats is None and block.fuses_layers for block in model.blocks)


def test_peaks_are_what_is_in_use(fast):
    """What is borrowed counts, whoever has borrowed it before."""
    block, _ = random_block(fast, None, n_embd=64, n_head=1, n_inner=256)
    x = random_input(4, 64, 64)
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(2):
            block.enable_stats()
            block.fuses_layers = False
            block(x)
            block(x)
            peaks.append({path: own.stats.peak_memory_bytes for path, own in block.layers()})
            peaks[-1][""] = block.stats.peak_memory_bytes
    finally:
        tracemalloc.stop()
    for path, first in peaks[0].items():
        assert abs(first - peaks[1][path]) < 5000, path
    found, size = peaks[0], x.nbytes
    assert 6 * size <= found["attn"] < 6.2 * size  # qkv, what the heads return, keys, values
    assert size <= found["ln_1"] < 1.2 * size
    assert 5 * size <= found["mlp"] < 5.7 * size  # output, hidden layer, buffers
    # While attention runs there is ln_1's output; while the feed-forward part does, ln_2's too.
    assert 7 * size <= found[""] < 7.7 * size
    assert fast.buffers.limit > 0


def test_a_profile_needs_a_counted_pass_of_each_part(fast):
    block, _ = random_block(fast, 7)
    with pytest.raises(UsageError, match=r"h\.0: h\.0\.ln_1\.weight has counted no forward pass"):
        LayerProfile.of_block(0, block)
    block.enable_stats()
    block(random_input(1, 5, 42))  # LayerNorms are fused
    with pytest.raises(UsageError, match=r"h\.0: h\.0\.ln_1\.weight has counted no forward pass"):
        LayerProfile.of_block(0, block)


# Memory of parameters


def test_memory_of_a_dense_model_is_that_of_float32(kernels):
    config = small_config()
    model = Gpt2.from_checkpoint(config, random_tensors(config), kernels)
    usage = model.memory_usage()
    assert usage.parameter_bytes == usage.float32_bytes == 4 * parameter_count(config)
    assert (usage.ratio, usage.decoded_bytes) == (1, 0)


def test_an_untied_head_counts(kernels):
    config = small_config(tie_word_embeddings=False)
    model = Gpt2.from_checkpoint(config, random_tensors(config), kernels)
    assert model.memory_usage().float32_bytes == 4 * parameter_count(config)
    assert model.head.memory_usage().float32_bytes == 4 * 42 * 211


def test_memory_of_a_compressed_model(kernels):
    config = small_config()
    tensors = as_panels(random_tensors(config), 7)[0]
    model = Gpt2(config, tensors, kernels)
    usage = model.memory_usage()
    assert usage.float32_bytes == 4 * parameter_count(config)
    assert usage.parameter_bytes == sum(own.nbytes for own in tensors.values())
    assert usage.ratio == usage.float32_bytes / usage.parameter_bytes > 3.9
    parts = [part.memory_usage().parameter_bytes for _, part in model.parts()][:-1]
    assert sum(parts) == usage.parameter_bytes
    mlp = model.blocks[0].mlp
    own = mlp.c_fc.memory_usage() + mlp.c_proj.memory_usage()
    assert mlp.memory_usage() == own
    assert own.float32_bytes == 4 * (2 * 42 * 77 + 42 + 77)


def test_classic_matrices_are_decoded_once(kernels, monkeypatch):
    matrix = ClassicMatrix.encode(random_input(20, 30), 6, 16)
    decoded = []
    decode = ClassicMatrix.decode
    monkeypatch.setattr(ClassicMatrix, "decode", lambda self: decoded.append(self) or decode(self))
    linear, table = Linear("w", matrix, None, kernels), Embedding("w", matrix, kernels)
    assert linear.memory_usage().decoded_bytes == 0
    for _ in range(3):
        linear(random_input(2, 20))
        linear.backward(random_input(2, 20), random_input(2, 30))
        table(np.array([0, 29]))
    assert len(decoded) == 1
    for layer in (linear, table):
        usage = layer.memory_usage()
        assert usage.parameter_bytes == matrix.nbytes
        assert usage.decoded_bytes == usage.float32_bytes == 4 * 20 * 30
    assert linear.weight is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix.decoded()[0] = 0
    changed = matrix.with_parameters(
        {".surfaces": 2 * matrix.surfaces, ".coefficients": 2 * matrix.coefficients}
    )
    np.testing.assert_allclose(changed.decoded(), 2 * matrix.decoded(), rtol=1e-5, atol=1e-6)
