import numpy as np
import pytest
from small_models import small_config

from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.kernels.kernel_records import KV_TYPES, PAGE_POSITIONS
from rbe_cli.memory_needs import MemoryNeededError

ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@pytest.mark.parametrize("kind", KV_TYPES)
def test_memory_follows_the_tokens(kind):
    config = small_config(n_positions=400)
    cache = PagedCache(config, 3, kind)
    assert cache.nbytes == 0
    width = 32  # the head's 14 elements, rounded up
    vectors = 2 * PAGE_POSITIONS * (width * ELEMENT_BYTES[kind] + 4 * (kind == "int8"))
    page = config.n_layer * config.n_head * vectors
    cache.reserve(1, 1)
    assert cache.nbytes == page
    cache.advance(np.array([1]), 1)
    cache.reserve(1, PAGE_POSITIONS - 1)
    assert cache.nbytes == page
    cache.reserve(1, PAGE_POSITIONS)
    cache.reserve(2, 1)
    assert cache.nbytes == 3 * page


def test_an_emptied_rows_pages_serve_others():
    cache = PagedCache(small_config(n_positions=400), 2, "fp16")
    cache.reserve(0, 300)
    cache.advance(np.array([0]), 300)
    before = cache.nbytes
    cache.truncate(0, 100)
    cache.reserve(1, 150)
    assert cache.nbytes == before
    assert cache.lengths.tolist() == [100, 0]


def test_a_lack_of_memory_names_the_tokens(monkeypatch):
    def lack(self, size):
        raise MemoryError

    monkeypatch.setattr("rbe_cli.engine.paged_cache.Arena.zeros", lack)
    cache = PagedCache(small_config(n_positions=400), 1, "fp32")
    cache.advance(np.array([0]), 0)
    with pytest.raises(MemoryNeededError, match=r"keys and values of 300 tokens: about 0\.\d MB"):
        cache.reserve(0, 300)
