"""Define what compiled kernels are told, as records of numbers and addresses in memory.

Kernels that run without Numba (kernels/native.py) take no arrays. Who fills a record keeps the
arrays behind its addresses alive. All lengths are counted in elements, all strides in bytes.
"""

import numpy as np

from rbe_cli.choices import KvType
from rbe_cli.model.config import Activation
from rbe_cli.weights.matrix_record import MATRIX
from rbe_cli.weights.panel_layout import TILE_ROWS
from rbe_cli.weights.trellis_layout import GROUP_TILES

_INT, _FLOAT = np.int64, np.float32

MATMUL = np.dtype(
    [
        ("multiply", _INT),  # address of machine code
        ("matrix", MATRIX),
        ("tokens", _INT),
        ("x", _INT),  # address of float32 [tokens, x_stride / 4], readable to K'
        ("x_stride", _INT),
        ("out", _INT),  # address of float32 [tokens, out_stride / 4], writable to N'
        ("out_stride", _INT),
        ("quantised_inputs", _INT),  # address of scratch, [tokens, quantised_bytes]
        ("quantised_bytes", _INT),
        ("scratch", _INT),  # address of scratch, [threads, scratch_bytes]
        ("scratch_bytes", _INT),
        ("flags", _INT),  # address of the team's barrier
        ("source", _INT),  # address of float32 [tokens, source_stride / 4] that is normalised to x
        ("source_stride", _INT),
        ("gamma", _INT),  # addresses of float32 [K]; 0: x is there already
        ("beta", _INT),
        ("eps", np.float64),
        ("activation", _INT),  # its number in ACTIVATIONS; -1: none
    ]
)
STATISTICS_BYTES = 16  # of a row: its mean and 1 / sqrt(variance + eps), float64
LAYER_NORM = np.dtype(
    [
        ("x", _INT),  # address of float32 or float16 [tokens, length]
        ("out", _INT),  # address of the same
        ("x_stride", _INT),
        ("gamma", _INT),  # addresses of float32 [length]
        ("beta", _INT),
        ("eps", np.float64),
        ("statistics", _INT),  # address of float64 [tokens, 2]
        ("tokens", _INT),
        ("length", _INT),
        ("is_half", _INT),
        ("streams", _INT),  # whether the result passes by the cache
        ("fused", _INT),  # whether a row is finished before the next
        ("flags", _INT),  # address of the team's barrier
    ]
)
LAYER_NORM_BACKWARD = np.dtype(
    [
        ("x", _INT),  # addresses of float32 [tokens, length]
        ("grad", _INT),
        ("out", _INT),
        ("x_stride", _INT),
        ("statistics", _INT),  # as above
        ("gamma", _INT),  # address of float32 [length]
        ("sums", _INT),  # address of float32 [blocks, 2, length]
        ("tokens", _INT),
        ("length", _INT),
        ("blocks", _INT),
        ("block_rows", _INT),
    ]
)
ATTENTION = np.dtype(
    [
        ("qkv", _INT),  # address of float32 [batch, seq, 3 * heads * head_dim]
        ("qkv_stride", _INT),  # of a token
        ("out", _INT),  # address of float32 [batch, seq, heads * head_dim]
        ("out_stride", _INT),
        ("keys", _INT),  # addresses of float32 [cache rows, heads, capacity, head_dim]
        ("values", _INT),
        ("row_bytes", _INT),
        ("head_bytes", _INT),
        ("rows", _INT),  # address of int64 [batch], each sequence's row
        ("starts", _INT),  # address of int64 [batch], positions that the row holds already
        ("scale", _FLOAT),
        ("batch", _INT),
        ("seq", _INT),
        ("heads", _INT),
        ("head_dim", _INT),
        ("scratch", _INT),  # address of scratch, [threads, scratch_bytes]
        ("scratch_bytes", _INT),
    ]
)
ACTIVATE = np.dtype(
    [
        ("activation", _INT),  # its number in ACTIVATIONS
        ("x", _INT),  # address of float32 [length]
        ("grad", _INT),  # address of the same; 0: the function itself is asked for
        ("length", _INT),  # a multiple of 16
    ]
)
CACHE = np.dtype(
    [
        ("pages", _INT),  # address of int64 [rows, row_pages], the pages' addresses
        ("row_pages", _INT),
        ("heads", _INT),
        ("head_dim", _INT),
        ("width", _INT),  # head_dim rounded up to a multiple of 32
        ("head_bytes", _INT),  # of a layer's head in a page
        ("kind", _INT),  # its place in KV_TYPES
        ("out_stride", _INT),
        ("score_stride", _INT),  # bytes of a query's scores
        ("ones", _INT),  # address of float32 ones, as many as scores or elements of a head
    ]
)
ACTIVATIONS: dict[Activation, int] = {
    "gelu_new": 0,
    "gelu_pytorch_tanh": 0,
    "gelu": 1,
    "quick_gelu": 2,
    "silu": 3,
    "relu": 4,
}
"""Numbers that compiled kernels know activation functions by."""
PAGE_POSITIONS = 64
KV_TYPES: tuple[KvType, ...] = ("fp32", "fp16", "int8")
GROUP_ROWS = GROUP_TILES * TILE_ROWS  # quantised inputs that share a scale
UNPACKED_BYTES = 2 * 16 * GROUP_ROWS  # of a panel's group, at most 16 bits a weight
PAIR_ROWS = 64  # of two tiles, to whose multiples quantised inputs are padded


def group_count(rows: int) -> int:
    """Return the number of groups of a token's quantised inputs."""
    return -(-rows // GROUP_ROWS)


def quantised_bytes(rows: int) -> int:
    """Return the bytes of a token's quantised inputs (products.py): an odd number of lines.

    An even one could put the same place of many tokens into the same set of a cache. An input has
    up to four bytes (avx2_products.py).
    """
    header = 8 * group_count(rows) + 4 * -(-rows // 32)
    return 64 * (-(-header // 64) + 4 * -(-rows // PAIR_ROWS) | 1)


def scratch_bytes(tokens: int, rows: int) -> int:
    """Return the bytes of a thread's scratch for products by a matrix of `rows` rows.

    Either two unpacked groups, then totals of all tokens; or with instructions for matrices four
    unpacked panels, then totals of 64 tokens and sums of 16.
    """
    with_vectors = 2 * UNPACKED_BYTES + 128 * (tokens + 8)
    return max(with_vectors, 4 * 512 * -(-rows // 32) + 256 * 64 + 4096)


def padded_tokens(tokens: int) -> int:
    """Return how many tokens' quantised inputs there is memory for: whole blocks of 32."""
    return -(-tokens // 32) * 32


def head_bytes(width: int, kind: KvType) -> int:
    """Return the bytes of 64 positions' keys and values of a head."""
    scales = 8 * PAGE_POSITIONS if kind == "int8" else 0
    return 2 * PAGE_POSITIONS * width * {"fp32": 4, "fp16": 2, "int8": 1}[kind] + scales


def attention_bytes(width: int, positions: int) -> int:
    """Return the bytes of a thread's scratch for attention to at most `positions`."""
    return 32 * width + 4 * score_bytes(positions) + quantised_bytes(max(width, positions + 32))


def score_bytes(positions: int) -> int:
    """Return the bytes of a query's scores: to a multiple of 32 positions, and a block more."""
    return 4 * (-(-positions // 32) * 32 + 32)
