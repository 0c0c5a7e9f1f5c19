import tracemalloc

import numpy as np
import pytest
from small_layers import peak_bytes, random_block, random_input
from small_models import relative_error

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.nn.profile import LayerProfile
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
    block.profile = LayerProfile(0)
    found.append(block(x))
    block.profile = None
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
        assert limit / 8 < peak_bytes(forgetting) <= limit < unlimited


def test_profiles_count_time_and_memory(fast):
    block, _ = random_block(fast, 7)
    x = random_input(4, 30, 42)
    fast.buffers.clear()
    block.profile = profile = LayerProfile(3)
    tracemalloc.start()
    try:
        for _ in range(3):
            block(x)
    finally:
        tracemalloc.stop()
    parts = [
        profile.ln_1_ns, profile.attention_ns, profile.ln_2_ns, profile.feed_forward_ns,
        profile.residual_ns,
    ]  # fmt: skip
    assert min(parts) > 0
    assert profile.total_ns == sum(parts)
    assert profile.calls == 3
    assert profile.peak_memory_bytes > 2 * x.nbytes


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
