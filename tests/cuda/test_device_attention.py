"""Attention over a paged cache, in the simulator, beside numpy."""

import numpy as np
import pytest
from device_arrays import on_device, poisoned
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.cuda import attention_kernels, device_cache, paged_attention
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.paged_attention import Place, attend
from rbe_cli.errors import UsageError
from rbe_cli.kernels import numpy_twins
from rbe_cli.model.config import Gpt2Config

SCALE = 0.3
LAYER = 1
PAGE = 4  # positions: the simulator takes a thread of Python for each


@pytest.fixture(scope="module", autouse=True)
def small_pages():
    """Let few positions fill a page."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention_kernels, device_cache, paged_attention):
            patch.setattr(module, "PAGE", PAGE)
        yield


def config_of(heads, head_dim):
    return Gpt2Config(
        vocab_size=8, n_positions=300, n_embd=heads * head_dim, n_layer=2, n_head=heads, n_inner=4
    )


def append(cache, row, qkv):
    """What the tokens `[n, 3 * d]`, appended to a row, attend to."""
    positions = cache.lengths[row] + np.arange(len(qkv))
    cache.reserve(row, len(qkv))
    out = poisoned((len(qkv), qkv.shape[1] // 3))
    place = Place(cache, np.full(len(qkv), row), positions)
    attend(cache, LAYER, on_device(qkv)[0], place, SCALE, out)
    cache.advance(np.array([row]), len(qkv))
    return out.copy_to_host()


def expected(heads, qkv):
    """What whole sequences `[n, 3 * d]` attend to, in float64."""
    width = qkv.shape[1] // 3
    keys, values = np.zeros((2, 1, heads, len(qkv), width // heads))
    out = np.empty((1, len(qkv), width))
    zeros = np.zeros(1, np.int64)
    numpy_twins.attention(qkv[None].astype(float), keys, values, zeros, zeros, SCALE, out)
    return out[0]


@given(
    seed=st.integers(0, 999),
    heads=st.integers(1, 2),
    head_dim=st.integers(1, 5),
    counts=st.lists(st.integers(1, PAGE + 1), min_size=1, max_size=2),
)
@examples(3)
def test_rows_attend_to_their_own_tokens(seed, heads, head_dim, counts):
    """Two rows take turns; each sees its own tokens alone."""
    rng = np.random.default_rng(seed)
    cache = DeviceCache(config_of(heads, head_dim), 2, "fp32")
    texts = [rng.standard_normal((sum(counts), 3 * heads * head_dim), np.float32) for _ in range(2)]
    found, start = [[], []], 0
    for count in counts:
        for row in (1, 0):
            found[row].append(append(cache, row, texts[row][start : start + count]))
        start += count
    for row in range(2):
        np.testing.assert_allclose(
            np.concatenate(found[row]), expected(heads, texts[row]), rtol=1e-5, atol=1e-6
        )


def test_keys_and_values_are_rounded_to_halfs():
    rng = np.random.default_rng(0)
    cache = DeviceCache(config_of(1, 2), 1, "fp16")
    qkv = 3 * rng.standard_normal((PAGE + 2, 6), np.float32)
    found = append(cache, 0, qkv)
    qkv[:, 2:] = qkv[:, 2:].astype(np.float16)
    np.testing.assert_allclose(found, expected(1, qkv), rtol=1e-5, atol=1e-5)


def test_a_batch_of_rows_is_decoded_at_once():
    rng = np.random.default_rng(1)
    cache = DeviceCache(config_of(2, 3), 3, "fp32")
    texts = rng.standard_normal((3, 2, 18), np.float32)
    for row in (0, 2):
        append(cache, row, texts[row, :1])
        cache.reserve(row, 1)
    rows = np.array([2, 0])
    out = poisoned((2, 6))
    place = Place(cache, rows, cache.lengths[rows])
    attend(cache, LAYER, on_device(texts[rows, 1])[0], place, SCALE, out)
    for found, row in zip(out.copy_to_host(), rows, strict=True):
        np.testing.assert_allclose(found, expected(2, texts[row])[1], rtol=1e-5, atol=1e-6)


def test_the_cache_keeps_what_it_holds_when_it_grows():
    cache = DeviceCache(config_of(1, 1), 1, "fp32")
    cache.reserve(0, 1)
    pages = len(cache.keys[0])
    cache.keys[1][0, 0, 0, 3:4].copy_to_device(np.array([7], np.float32))
    cache.lengths[0] = 1
    cache.reserve(0, pages * PAGE)
    assert len(cache.keys[0]) == len(cache.values[1]) == 2 * pages
    assert cache.keys[1].copy_to_host()[0, 0, 0, 3] == 7
    assert cache.nbytes == 2 * pages * PAGE * cache.position_bytes
    assert len(set(cache.table([0])[0].tolist())) == pages + 1


def test_pages_of_an_emptied_row_serve_others():
    cache = DeviceCache(config_of(1, 1), 1, "fp16")
    cache.reserve(0, 8 * PAGE)
    pages = len(cache.keys[0])
    cache.advance(np.array([0]), 8 * PAGE)
    cache.truncate(0, PAGE + 1)
    row = cache.add_row()
    cache.reserve(row, 6 * PAGE)
    assert len(cache.keys[0]) == pages
    both = [*cache.table([0])[0], *cache.table([row])[0]]
    assert len(set(both)) == 8
    cache.reset(row)
    assert cache.lengths.tolist() == [PAGE + 1, 0]


def test_integers_are_refused():
    with pytest.raises(UsageError, match="`kv_type` int8 does not exist on `backend` cuda"):
        DeviceCache(config_of(1, 1), 1, "int8")
