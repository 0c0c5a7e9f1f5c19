"""Keep keys and values of the tokens already seen, so that each is computed once."""

from dataclasses import dataclass

import numpy as np

from rbe_cli.model.config import Gpt2Config
from rbe_cli.runtime.arrays import Floating, Int64

_GROWTH = 128  # positions added at a time


@dataclass(frozen=True, eq=False)
class LayerCache:
    """Hold one layer's cache, and say which part of it a forward pass extends.

    Attributes:
        keys, values: `[cache_rows, n_head, capacity, head_dim]`.
        rows: int64 `[batch]`, the cache row of each sequence of the batch.
        starts: int64 `[batch]`, the positions each row holds already.
    """

    keys: Floating
    values: Floating
    rows: Int64
    starts: Int64

    def of(self, group: slice) -> "LayerCache":
        """Return the part that some sequences of the batch extend."""
        return LayerCache(self.keys, self.values, self.rows[group], self.starts[group])


def starts_of(cache: LayerCache | None) -> list[int] | None:
    """Return how many positions each sequence of the batch has already; None without a cache."""
    return None if cache is None else [int(start) for start in cache.starts]


class KVCache:
    """Keep the tokens of `batch` independent rows, each with its own length.

    Memory follows the longest row: 8 bytes * n_layer * n_embd a position and row, in steps
    of 128 positions.

    Attributes:
        lengths: int64 `[batch]`, tokens in each row.
    """

    def __init__(self, config: Gpt2Config, batch: int) -> None:
        """Begin with empty rows.

        Args:
            config: of the model.
            batch: number of rows.
        """
        shape = (batch, config.n_head, 0, config.head_dim)
        layers = range(config.n_layer)
        self._keys: list[Floating] = [np.empty(shape, np.float32) for _ in layers]
        self._values: list[Floating] = [np.empty(shape, np.float32) for _ in layers]
        self._n_positions = config.n_positions
        self.lengths = np.zeros(batch, np.int64)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all keys and values."""
        return sum(array.nbytes for array in (*self._keys, *self._values))

    def layers(self, rows: Int64, seq: int) -> list[LayerCache]:
        """Return the layers' caches, with room for `seq` more tokens in each of `rows`."""
        starts = self.lengths[rows]
        self._reserve(int(starts.max()) + seq)
        return [
            LayerCache(keys, values, rows, starts)
            for keys, values in zip(self._keys, self._values, strict=True)
        ]

    def advance(self, rows: Int64, seq: int) -> None:
        """Count the `seq` tokens that every layer has now stored in `rows`."""
        self.lengths[rows] += seq

    def reset(self, row: int) -> None:
        """Empty a row."""
        self.lengths[row] = 0

    def _reserve(self, positions: int) -> None:
        if positions <= self._keys[0].shape[2]:
            return
        capacity = min(-(-positions // _GROWTH) * _GROWTH, self._n_positions)
        for arrays in (self._keys, self._values):
            for layer, array in enumerate(arrays):
                arrays[layer] = self._grown(array, capacity)

    def _grown(self, array: Floating, capacity: int) -> Floating:
        rows, heads, _, head_dim = array.shape
        grown = np.empty((rows, heads, capacity, head_dim), array.dtype)
        used = int(self.lengths.max())
        grown[:, :, :used] = array[:, :, :used]
        return grown
