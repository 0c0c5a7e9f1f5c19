"""Multiply dense arrays, with the threads of a team (algebra/dense_products.py)."""

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.runtime.arrays import Floating
from rbe_cli.runtime.thread_team import Team


def product_of(team: Team, a: Floating, b: Floating, out: Floating | None = None) -> Floating:
    """Return the product of `[..., K]` and `[K, N]`; numpy multiplies what is not float32.

    Args:
        team: the threads that compute.
        a: `[..., K]`.
        b: `[K, N]`.
        out: `[..., N]`, takes the result; contiguous.
    """
    if not a.dtype == b.dtype == np.float32:
        return np.asarray(np.matmul(a, b, out=out))
    if out is None:
        out = np.empty((*a.shape[:-1], b.shape[1]), np.float32)
    product(a.reshape(-1, a.shape[-1]), b, out.reshape(-1, b.shape[1]), team=team)
    return out
