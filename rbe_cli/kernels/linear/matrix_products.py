"""Multiply many tokens by panels with a CPU's matrix instructions (matrix_registers.py).

Blocks of 16 tokens (int8 activations: 32) go by a group of four unpacked panels, which stays in
the L1 cache. Sums of a block wait in memory and are added to the totals between the products
of the next, so that units for matrices and for vectors are busy at the same time.
"""

from typing import Any, NamedTuple

import numpy as np

from rbe_cli.kernels.linear.matrix_registers import (
    REGISTER_ROW_BYTES,
    REGISTER_ROWS,
    WITH_MATRICES,
    add_matrix_products,
    clear_sums,
    halves_of,
    store_sums,
)
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    fused,
    load_float,
    load_floats,
    load_ints,
    splat_float,
    splat_int,
    store_floats,
    to_floats,
)
from rbe_cli.weights.panel_layout import VECTOR_BYTES

_TOTAL_BYTES = WITH_MATRICES.panels * VECTOR_BYTES  # of a token
_ZERO = np.float32(0)
_STEPS = 4  # of a group, two tiles each
_STEP_BYTES = REGISTER_ROWS * REGISTER_ROW_BYTES
_SUMS_BYTES = 4 * _STEP_BYTES


class Group(NamedTuple):
    """Describe a group of unpacked panels, and a block of tokens: addresses, strides in bytes.

    All memory reaches to 32 whole tokens and to a pair of panels.

    Attributes:
        tiles: in the group.
        header, x: scale, and quantised inputs, of the first token.
        stride: of the two.
        unpacked, panel_bytes: the first panel, and where the next begins.
        totals: float32 `[WITH_MATRICES.tokens, WITH_MATRICES.panels, 16]`, then room for sums.
        is_first: there are no totals yet.
    """

    tiles: int
    header: int
    x: int
    stride: int
    unpacked: int
    panel_bytes: int
    totals: int
    is_first: bool


@program_code
def _multiply_step(arithmetic: Any, group: Any, x: int, panel: int, step: int) -> None:
    """Add products of two tiles' rows and two panels to the sums: of 16 tokens, or int8: of 32."""
    halves = halves_of(arithmetic)
    first = x + halves * REGISTER_ROW_BYTES * step
    second = first + (REGISTER_ROW_BYTES if halves == 2 else REGISTER_ROWS * group.stride)
    own = panel + _STEP_BYTES * step
    add_matrix_products(first, second, group.stride, own, own + group.panel_bytes)


@program_code
def _store_sums(arithmetic: Any, sums: int) -> None:
    """Write sums, int32 `[16, 2 halves, 2 panels, 16]` or `[2, 16, 2 panels, 16]`."""
    halves = halves_of(arithmetic)
    second = sums + (2 * VECTOR_BYTES if halves == 2 else _SUMS_BYTES // 2)
    store_sums(sums, second, 2 * halves * VECTOR_BYTES)


@program_code
def _add_sums(arithmetic: Any, group: Any, token: int, pair: int, sums: int) -> None:
    """Add a token's scale * sums to its totals of two panels."""
    scale = splat_float(load_float(group.header + token * group.stride))
    totals = group.totals + _TOTAL_BYTES * token
    for panel in range(2):
        exact, column = load_ints(sums + VECTOR_BYTES * panel), VECTOR_BYTES * (pair + panel)
        if halves_of(arithmetic) == 2:
            exact = (exact << splat_int(8)) + load_ints(sums + VECTOR_BYTES * (2 + panel))
        before = splat_float(_ZERO) if group.is_first else load_floats(totals + column)
        after = fused(to_floats(exact), scale, before)
        store_floats(totals + column, after)


@program_code
def _add_quarter(
    arithmetic: Any, group: Any, token: int, pair: int, quarter: int, sums: int
) -> None:
    """Add a quarter of a block's sums to totals: of 4 tokens, or int8: of twice 4."""
    halves = halves_of(arithmetic)
    for row in range(4):
        own = 4 * quarter + row
        _add_sums(arithmetic, group, token + own, pair, sums + 2 * halves * VECTOR_BYTES * own)
        if halves == 1:
            place = sums + _SUMS_BYTES // 2 + 2 * VECTOR_BYTES * own
            _add_sums(arithmetic, group, token + REGISTER_ROWS + own, pair, place)


@program_code
def multiply_group(arithmetic: Any, group: Any, tokens: int, panels: int) -> None:
    """Add the products of tokens and of a group of panels to totals."""
    block, steps = 2 * REGISTER_ROWS // halves_of(arithmetic), (group.tiles + 1) // 2
    sums = group.totals + _TOTAL_BYTES * WITH_MATRICES.tokens
    token_before, pair_before = -1, 0
    for token in range(0, tokens, block):
        x = group.x + token * group.stride
        for pair in range(0, panels, 2):
            panel = group.unpacked + pair * group.panel_bytes
            clear_sums()
            for step in range(_STEPS):
                if step < steps:
                    _multiply_step(arithmetic, group, x, panel, step)
                if token_before >= 0:
                    _add_quarter(arithmetic, group, token_before, pair_before, step, sums)
            _store_sums(arithmetic, sums)
            token_before, pair_before = token, pair
    for step in range(_STEPS):
        _add_quarter(arithmetic, group, token_before, pair_before, step, sums)
