"""Attend to a cache on the GPU: where tokens belong, and the launches of the kernels."""

from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.cuda.attention_kernels import PAGE, attend_pages, store_keys_values
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.runtime.arrays import Int64

_THREADS = 128


class Place:
    """Say where tokens belong in a cache, in arrays on the device.

    Attributes:
        table: int32 `[rows, most pages]`, of the rows that are used.
        rows: int32 `[tokens]`, index into `table`.
        positions: int32 `[tokens]`.
    """

    def __init__(self, cache: DeviceCache, rows: Int64, positions: Int64) -> None:
        """Copy the tables of the rows that are used.

        Args:
            cache: has room for the tokens.
            rows, positions: `[tokens]`.
        """
        used, index = np.unique(rows, return_inverse=True)
        self.table = cuda.to_device(cache.table([int(row) for row in used]))
        self.rows = cuda.to_device(index.astype(np.int32))
        self.positions = cuda.to_device(positions.astype(np.int32))


def attend(cache: DeviceCache, layer: int, qkv: Any, place: Place, scale: float, out: Any) -> None:
    """Append keys and values to a layer's cache, and attend to all positions up to a token's own.

    Args:
        cache: has room for the tokens.
        layer: number of the layer.
        qkv: float32 `[tokens, 3 * d]`, on the device.
        place: of the tokens.
        scale: factor of the scores.
        out: float32 `[tokens, d]`, on the device.
    """
    tokens, width = out.shape
    pools = cache.keys[layer], cache.values[layer]
    heads, head_dim = pools[0].shape[1], pools[0].shape[2]
    where = place.table, place.rows, place.positions
    threads = min(width, _THREADS)
    store_keys_values.launch(tokens, threads, qkv, *pools, *where, form=cache.form)
    attend_pages.launch(
        tokens * heads, PAGE, qkv, *pools, *where, np.float32(scale), out,
        form=cache.form, shared_bytes=2 * 4 * head_dim,
    )  # fmt: skip
