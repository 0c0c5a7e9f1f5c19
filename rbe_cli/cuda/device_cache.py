"""Keys and values of the tokens already seen, on the GPU, in pages of 64 positions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.choices import KvType
from rbe_cli.cuda.attention_kernels import PAGE
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.runtime.arrays import Int64

KINDS: tuple[KvType, ...] = ("fp32", "fp16")
_FIRST_PAGES = 8


class DeviceCache:
    """Keep keys and values of `batch` independent rows, each with its own length.

    A page has a place in each layer's two pools, which double when no page is free. An emptied
    row's pages serve whatever row grows next.

    Attributes:
        lengths: int64 `[batch]`, tokens in each row.
        kind: how keys and values are kept.
        keys: of each layer, `[pages, heads, head_dim, PAGE]`, on the device.
        values: of each layer, `[pages, heads, PAGE, head_dim]`, on the device.
    """

    def __init__(self, config: Gpt2Config, batch: int, kind: KvType) -> None:
        """Begin with empty rows.

        Raises:
            UsageError: keys and values cannot be kept in this form.
        """
        if kind not in KINDS:
            raise UsageError(
                f"`kv_type` {kind} does not exist on `backend` cuda: take fp16 or fp32"
            )
        self.lengths = np.zeros(batch, np.int64)
        self.kind = kind
        self._type = np.dtype(np.float16 if kind == "fp16" else np.float32)
        self._config = config
        self._rows: list[list[int]] = [[] for _ in range(batch)]
        self._free: list[int] = []
        self._pages = 0
        self.keys: list[Any] = []
        self.values: list[Any] = []

    @property
    def form(self) -> int:
        """Return the index of the kernels' signature for this kind."""
        return KINDS.index(self.kind)

    @property
    def position_bytes(self) -> int:
        """Return the bytes of one token's keys and values."""
        return 2 * self._config.n_layer * self._config.n_embd * self._type.itemsize

    @property
    def nbytes(self) -> int:
        """Return the bytes of all pages, in use or free."""
        return self._pages * PAGE * self.position_bytes

    def add_row(self) -> int:
        """Add an empty row, and return its number."""
        self.lengths = np.append(self.lengths, 0)
        self._rows.append([])
        return len(self._rows) - 1

    def reserve(self, row: int, tokens: int) -> None:
        """Make room for `tokens` more in a row."""
        pages = self._rows[row]
        while len(pages) * PAGE < int(self.lengths[row]) + tokens:
            if not self._free:
                self._grow(max(2 * self._pages, _FIRST_PAGES))
            pages.append(self._free.pop())

    def table(self, rows: Sequence[int]) -> Any:
        """Return the pages of some rows, int32 `[len(rows), most pages]`."""
        lists = [self._rows[row] for row in rows]
        found = np.zeros((len(lists), max(map(len, lists))), np.int32)
        for own, pages in zip(found, lists, strict=True):
            own[: len(pages)] = pages
        return found

    def advance(self, rows: Int64, tokens: int) -> None:
        """Count the `tokens` that were stored in each of `rows`."""
        self.lengths[rows] += tokens

    def truncate(self, row: int, length: int) -> None:
        """Forget all but a row's first `length` tokens."""
        self.lengths[row] = length
        kept = -(-length // PAGE)
        self._free += self._rows[row][kept:]
        del self._rows[row][kept:]

    def reset(self, row: int) -> None:
        """Empty a row."""
        self.truncate(row, 0)

    def _grow(self, pages: int) -> None:
        """Give each layer's pools room for so many pages."""
        heads, head_dim = self._config.n_head, self._config.head_dim
        layers = range(self._config.n_layer)
        self.keys = [self._grown(self.keys, i, (pages, heads, head_dim, PAGE)) for i in layers]
        self.values = [self._grown(self.values, i, (pages, heads, PAGE, head_dim)) for i in layers]
        self._free += range(self._pages, pages)
        self._pages = pages

    def _grown(self, pools: list[Any], layer: int, shape: tuple[int, ...]) -> Any:
        """Return a larger pool that begins with what a layer's pool holds."""
        grown = cuda.device_array(shape, self._type)
        if self._pages:
            grown[: self._pages].copy_to_device(pools[layer])
        return grown
