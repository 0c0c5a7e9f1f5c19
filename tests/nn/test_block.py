import numpy as np
import pytest
from small_layers import peak_bytes, random_block, random_input
from small_models import relative_error

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.nn.tape import AllSavedTensors, SavedTensors, Tape


def layer_cache(config, batch, positions):
    return KVCache(config, batch).layers(np.arange(batch), positions)[0]


@pytest.mark.parametrize("largest", [None, 7])
def test_steps_with_a_cache_equal_the_full_forward(largest):
    """64 steps, batch 2, for any number of threads: the same bits."""
    x, outputs = random_input(2, 64, 42), []
    for threads in (1, 2):
        block, config = random_block(load_kernels("fast", threads), largest)
        full, cache = block(x), layer_cache(config, 2, 64)
        for step in range(64):
            cache.starts[:] = step
            out = block(x[:, step : step + 1], cache)
            assert relative_error(out, full[:, step : step + 1]) < 1e-5
            outputs.append(out)
    for one, two in zip(outputs[:64], outputs[64:], strict=True):
        if largest is not None:  # dense products are numpy's library's
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("largest", [None, 7])
def test_all_ways_give_the_same_output(kernels, largest):
    """Fused, seen by an observer, profiled, recorded, in groups of sequences."""
    block, _ = random_block(kernels, largest)
    x = random_input(5, 12, 42)
    out = block(x)
    seen = []
    found = [block(x, observe=lambda name, values: seen.append(name))]
    assert len(seen) == 4
    found += [block.record(x)[0], block.record(x, checkpoint=True)[0]]
    block.enable_stats()
    found.append(block(x))
    block.disable_stats()
    block.fuses_layers = False
    found.append(block(x))
    block.fuses_layers = True
    for own in found:
        np.testing.assert_array_equal(own, out)
    for limit in (0, 100_000, 10_000_000):
        block.memory_limit = limit
        assert relative_error(block(x), out) <= 1e-6


def test_checkpointed_forward_keeps_the_cache(kernels):
    block, config = random_block(kernels)
    x = random_input(2, 12, 42)
    caches = [layer_cache(config, 2, 12) for _ in range(3)]
    block(x, caches[0])
    block.record(x, caches[1], checkpoint=True)
    block.record(x, caches[2], checkpoint=False)
    for cache in caches[1:]:
        np.testing.assert_array_equal(cache.keys[:, :, :12], caches[0].keys[:, :, :12])
        np.testing.assert_array_equal(cache.values[:, :, :12], caches[0].values[:, :, :12])


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
def test_saved_and_recomputed_gradients_are_equal(kernels, recomputes, is_masked):
    block, _ = random_block(kernels, 7)
    block.mlp.checkpoint = recomputes
    x, grad = random_input(3, 8, 42), random_input(3, 8, 42, seed=1)
    mask = np.random.default_rng(2).random((3, 1, 8, 8)) < 0.8 if is_masked else None
    found = []
    for checkpoint in (False, True):
        _, saved = block.record(x, mask=mask, checkpoint=checkpoint)
        assert isinstance(saved, AllSavedTensors) == (not checkpoint)
        if not checkpoint:
            assert (saved.hidden is None) == recomputes
        gradients = Gradients()
        found.append((block.backward(saved, grad, gradients, mask=mask), gradients.sums))
    (first, sums), (second, same) = found
    np.testing.assert_array_equal(first, second)
    assert len(sums) == 4 * 3 + 4
    for name, own in sums.items():
        np.testing.assert_array_equal(own, same[name])


def test_masked_tokens_get_no_gradient(kernels):
    """A padded token that nobody may see changes nothing but itself."""
    block, _ = random_block(kernels)
    x, grad = random_input(1, 8, 42), random_input(1, 8, 42, seed=1)
    mask = np.ones((1, 1, 1, 8), bool)
    mask[..., 3] = False
    grad[:, 3] = 0
    moved = x.copy()
    moved[:, 3] += 1
    others = np.arange(8) != 3
    np.testing.assert_array_equal(
        block(x, mask=mask)[:, others], block(moved, mask=mask)[:, others]
    )
    found = block.backward(SavedTensors(x), grad, mask=mask)
    np.testing.assert_array_equal(found[:, 3], 0)
    assert np.abs(found[:, others]).min() > 0


@pytest.mark.parametrize("largest", [None, 7])
def test_a_limit_bounds_the_measured_peak(fast, largest):
    block, _ = random_block(fast, largest, n_embd=64, n_head=1, n_inner=256)
    x = random_input(32, 50, 64)

    def forgetting():
        fast.buffers.clear()
        return block(x)

    unlimited = peak_bytes(forgetting)
    for limit in (800_000, 500_000):
        block.memory_limit = limit
        objects = 2048  # of Python, which are no arrays and no part of the limit
        assert limit / 8 < peak_bytes(forgetting) <= limit + objects < unlimited


@pytest.mark.parametrize("largest", [None, 7])
@pytest.mark.parametrize("second", ["fused", "standard", "mixed"])
@pytest.mark.parametrize("first", ["fused", "standard", "mixed"])
def test_fusion_honours_the_variant_of_each_norm(fast, first, second, largest):
    """A norm counts calls of its own exactly if it is not part of a product."""
    block, _ = random_block(fast, largest)
    x = random_input(3, 12, 42)
    exact = block(x)
    block.ln_1.variant, block.ln_2.variant = first, second
    outputs = []
    for fuses in (True, False):
        block.fuses_layers = fuses
        block.enable_stats()
        outputs.append(block(x))
        for norm, variant in ((block.ln_1, first), (block.ln_2, second)):
            assert norm.stats.calls == (not fuses or variant != "fused")
    np.testing.assert_array_equal(*outputs)
    is_mixed = "mixed" in (first, second)
    assert np.array_equal(outputs[0], exact) == (not is_mixed)
    assert relative_error(outputs[0], exact) < 5e-3


def test_fusion_of_dense_weights_saves_the_normalised_input(fast):
    block, _ = random_block(fast, n_embd=64, n_head=1, n_inner=64)
    x = random_input(40, 50, 64)
    norm, linear = block.ln_1, block.attn.c_attn
    fused, apart = linear(x, norm=norm.norm), linear(norm(x))
    assert relative_error(fused, apart) < 1e-6
    peaks = [
        peak_bytes(lambda: linear(x, norm=norm.norm)),
        peak_bytes(lambda: linear(norm(x))),
    ]
    assert peaks[0] < 0.25 * x.nbytes
    assert peaks[1] > x.nbytes


@pytest.mark.parametrize("limit", [None, 40_000])
def test_attention_weights_come_through_the_block(kernels, limit):
    block, config = random_block(kernels, 7)
    x = random_input(3, 12, 42)
    plain, weights = block(x), np.empty((3, 3, 12, 12), np.float32)
    block.memory_limit = limit
    out = block(x, weights=weights)
    assert relative_error(out, plain) < 1e-4  # numpy computes it instead of a kernel
    qkv = block.attn.c_attn(block.ln_1(x)).reshape(3, 12, 3, 3, 14)
    values = qkv[:, :, 2].transpose(0, 2, 1, 3)  # [batch, heads, seq, head_dim]
    attended = (weights @ values).transpose(0, 2, 1, 3).reshape(3, 12, 42)
    expected = block.attn.attend(qkv.reshape(3, 12, 126))
    np.testing.assert_allclose(attended, expected, rtol=1e-4, atol=1e-5)
    cached = np.empty((3, 3, 4, 12), np.float32)
    cache = layer_cache(config, 3, 12)
    block(x[:, :8], cache)
    cache.starts[:] = 8
    block(x[:, 8:], cache, weights=cached)
    np.testing.assert_allclose(cached, weights[:, :, 8:], rtol=1e-4, atol=1e-5)


def all_saved(hidden):
    """Arrays of no sense, which a tape only keeps."""
    statistics = np.zeros((2, 6, 2))
    saved = (random_input(2, 3, 4, seed=i) for i in range(4))
    return AllSavedTensors(*saved, hidden, *statistics)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SavedTensors(random_input(2, 3, 4)),
        lambda: all_saved(None),
        lambda: all_saved(random_input(2, 3, 8)),
    ],
    ids=["input alone", "without hidden", "all"],
)
def test_tapes_write_what_exceeds_the_limit(make, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocks = [make() for _ in range(4)]
    with Tape(memory_limit=2 * blocks[0].nbytes) as tape:
        for block in blocks:
            tape.append(block)
        files = list(tmp_path.rglob("*.npz"))
        assert len(files) == 2
        assert tape.file_bytes == sum(file.stat().st_size for file in files)
        for block in reversed(blocks):
            found = tape.pop()
            assert type(found) is type(block)
            for name, array in vars(block).items():
                np.testing.assert_array_equal(getattr(found, name), array)
    assert list(tmp_path.iterdir()) == []


def test_a_tape_without_a_forward_pass_is_refused():
    with pytest.raises(UsageError, match="call record before backward"):
        Tape().outcome()


def test_an_empty_tape_is_refused():
    with pytest.raises(UsageError, match="the tape holds no recorded block"):
        Tape().pop()
