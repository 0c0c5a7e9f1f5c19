"""Keys and values of the tokens already seen, in pages of 64 positions (cache_pages.py)."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.choices import KvType
from rbe_cli.kernels.kernel_records import CACHE, KV_TYPES, PAGE_POSITIONS, head_bytes, score_bytes
from rbe_cli.memory_needs import memory_for
from rbe_cli.model.config import Gpt2Config
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.arrays import Int64
from rbe_cli.weights.panel_layout import TILE_ROWS


def cache_bytes(config: Gpt2Config, batch: int, kind: KvType, tokens: int) -> int:
    """Return the bytes that `batch` rows of at most `tokens` each take."""
    pages = -(-min(tokens, config.n_positions) // PAGE_POSITIONS)
    return batch * pages * config.n_layer * config.n_head * head_bytes(_width(config), kind)


def _width(config: Gpt2Config) -> int:
    """Return the elements that a head takes: `head_dim`, rounded up to a multiple of 32."""
    return -(-config.head_dim // TILE_ROWS) * TILE_ROWS


class PagedCache:
    """Keeps keys and values of `batch` independent rows, each with its own length.

    A row's memory follows its tokens, in steps of a page; an emptied row's pages serve whatever
    row grows next.

    Attributes:
        lengths: int64 `[batch]`, tokens in each row.
        kind: how keys and values are kept.
        width: elements that a head takes.
        record: `[1]` of `kernel_records.CACHE`; valid as long as this object lives.
    """

    def __init__(self, config: Gpt2Config, batch: int, kind: KvType) -> None:
        """Begin with empty rows, which take no memory."""
        self.lengths = np.zeros(batch, np.int64)
        self.kind = kind
        self.width = _width(config)
        self._row_pages = -(-config.n_positions // PAGE_POSITIONS)
        self._table = np.zeros((batch, self._row_pages), np.int64)  # addresses
        self._rows: list[list[NDArray[np.uint8]]] = [[] for _ in range(batch)]
        self._free: list[NDArray[np.uint8]] = []
        self._arena = Arena()
        own = head_bytes(self.width, kind)
        self._page_bytes = config.n_layer * config.n_head * own
        self._ones = np.ones(max(score_bytes(config.n_positions) // 4, self.width), np.float32)
        self.record = np.zeros(1, CACHE)
        self.record["pages"], self.record["row_pages"] = address(self._table), self._row_pages
        self.record["heads"], self.record["head_dim"] = config.n_head, config.head_dim
        self.record["width"], self.record["head_bytes"] = self.width, own
        self.record["kind"] = KV_TYPES.index(kind)
        self.record["score_stride"] = score_bytes(config.n_positions)
        self.record["ones"] = address(self._ones)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, in use or free."""
        return self._page_bytes * (sum(map(len, self._rows)) + len(self._free))

    @property
    def position_bytes(self) -> int:
        """Bytes of one token's keys and values."""
        return self._page_bytes // PAGE_POSITIONS

    def add_row(self) -> int:
        """Add an empty row, and return its number."""
        self._table = np.concatenate([self._table, np.zeros((1, self._row_pages), np.int64)])
        self.lengths = np.append(self.lengths, 0)
        self._rows.append([])
        self.record["pages"] = address(self._table)
        return len(self._rows) - 1

    def reserve(self, row: int, tokens: int) -> None:
        """Make room for `tokens` more in a row."""
        pages = self._rows[row]
        length = int(self.lengths[row]) + tokens
        while len(pages) * PAGE_POSITIONS < length:
            page = self._free.pop() if self._free else self._new_page(length)
            self._table[row, len(pages)] = address(page)
            pages.append(page)

    def _new_page(self, tokens: int) -> NDArray[np.uint8]:
        """Return one page more, for a row of so many tokens."""
        needed = -(-tokens // PAGE_POSITIONS) * self._page_bytes
        with memory_for(f"for the keys and values of {tokens} tokens", needed):
            return self._arena.zeros(self._page_bytes)

    def advance(self, rows: Int64, tokens: int) -> None:
        """Count the `tokens` that were stored in each of `rows`."""
        self.lengths[rows] += tokens

    def truncate(self, row: int, length: int) -> None:
        """Forget all but a row's first `length` tokens."""
        self.lengths[row] = length
        kept = -(-length // PAGE_POSITIONS)
        self._free += self._rows[row][kept:]
        del self._rows[row][kept:]

    def reset(self, row: int) -> None:
        """Empty a row."""
        self.truncate(row, 0)
