"""Define the pages of a KV cache, in float32, float16 or int8, and append to them.

A page holds 64 positions of one sequence: for each layer and head its keys, then its values,
then (int8) the scales of both. W is the head's size rounded up to a multiple of 32:

    keys    float32 or float16   [4 blocks, W, 16 positions]
    values  float32 or float16   [64 positions, W]
    keys    int8                 4 panels of W rows by 16 positions (panel_layout.py, "int8")
    values  int8                 W / 16 panels of 64 positions by 16 of W
    scales  float32              [2, 64], of each key and each value

so that lanes are positions where scores are summed, and elements of the head where values are.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from rbe_cli.kernels.kernel_records import PAGE_POSITIONS
from rbe_cli.kernels.linear.quad_products import UNPACKED_OFFSET
from rbe_cli.runtime.arithmetic import Choice
from rbe_cli.runtime.floating import to_half
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    F16,
    F32,
    I64,
    LANES,
    kernel_intrinsic,
    load_float,
    load_int,
    store,
    store_byte,
    store_float,
)
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES

FLOAT32, FLOAT16 = Choice("fp32"), Choice("fp16")
BLOCK = 16  # positions
PAGE_BLOCKS = PAGE_POSITIONS // BLOCK
PAGE_TILES = PAGE_POSITIONS // TILE_ROWS
TILE_BYTES = 8 * VECTOR_BYTES
_ZERO = np.float32(0)
_127 = np.float32(127)


def cached_element(kind: Any) -> tuple[ir.Type, int]:
    """Return LLVM's type of a cache's element, and its bytes."""
    return (F32, 4) if kind.value == "fp32" else (F16, 2)


@kernel_intrinsic
def element_bytes(typing: Any, kind: Any) -> Any:
    size = ir.Constant(I64, cached_element(kind)[1])
    return types.int64(kind), lambda *_: size


@kernel_intrinsic
def _store_element(typing: Any, kind: Any, address: Any, value: Any) -> Any:
    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        element, _ = cached_element(kind)
        own = values[2] if element is F32 else to_half(builder, values[2])
        store(builder, values[1], own)
        return context.get_dummy_value()

    return types.void(kind, types.int64, types.float32), emit


@program_code
def page_address(cache: Any, row: int, position: int, layer: int, head: int) -> Any:
    """Return the address of a head's part of the page that holds a position."""
    pages = cache.pages + 8 * (row * cache.row_pages + position // PAGE_POSITIONS)
    return load_int(pages) + (layer * cache.heads + head) * cache.head_bytes


@program_code
def append(
    cache: Any, layer: int, head: int, row: int, position: int, key: int, value: int
) -> None:
    """Write a position's key and value, float32 `[head_dim]` at two addresses, to the cache."""
    page = page_address(cache, row, position, layer, head)
    place = position % PAGE_POSITIONS
    if cache.kind == 0:
        _append_floats(FLOAT32, cache, page, place, key, value)
    elif cache.kind == 1:
        _append_floats(FLOAT16, cache, page, place, key, value)
    else:
        scales = page + 2 * PAGE_POSITIONS * cache.width + 4 * place
        _append_codes(
            page + place // BLOCK * (cache.width // TILE_ROWS * TILE_BYTES)
            + place % BLOCK * 4,
            True, cache.head_dim, key, scales,
        )  # fmt: skip
        values = page + PAGE_POSITIONS * cache.width
        values += place // TILE_ROWS * TILE_BYTES + place % TILE_ROWS // 4 * VECTOR_BYTES
        _append_codes(values + place % 4, False, cache.head_dim, value, scales + 4 * PAGE_POSITIONS)


@program_code
def _append_floats(kind: Any, cache: Any, page: int, place: int, key: int, value: int) -> None:
    size = element_bytes(kind)
    keys = page + (place // BLOCK * cache.width * BLOCK + place % BLOCK) * size
    values = page + (PAGE_POSITIONS + place) * cache.width * size
    for i in range(cache.head_dim):
        _store_element(kind, keys + BLOCK * size * i, load_float(key + 4 * i))
        _store_element(kind, values + size * i, load_float(value + 4 * i))


@program_code
def _append_codes(out: int, down: bool, head_dim: int, vector: int, scale: int) -> None:
    """Write one column (`down`) or one row of a matrix in panels of 8-bit integers."""
    largest = _ZERO
    for i in range(head_dim):
        largest = max(largest, abs(load_float(vector + 4 * i)))
    inverse = _127 / largest if largest > 0 else _ZERO
    for i in range(head_dim):
        if down:
            place = i // TILE_ROWS * TILE_BYTES + i % TILE_ROWS // 4 * VECTOR_BYTES + i % 4
        else:
            place = i // LANES * PAGE_TILES * TILE_BYTES + i % LANES * 4
        rounded = np.rint(load_float(vector + 4 * i) * inverse)
        store_byte(out + place, np.int32(rounded) + np.int32(UNPACKED_OFFSET))
    store_float(scale, largest / _127)
