"""Compute LayerNorm and its gradients on the GPU, of arrays that lie there."""

from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.cuda.kernel import WARP, Kernel
from rbe_cli.cuda.layer_norm_backward_kernels import (
    STRIP,
    layer_norm_backward_rows,
    layer_norm_backward_wide_rows,
    layer_norm_parameter_sums,
)
from rbe_cli.cuda.layer_norm_kernels import ITEMS, layer_norm_rows, layer_norm_wide_rows
from rbe_cli.errors import UsageError

_KINDS = (np.dtype(np.float32), np.dtype(np.float16))  # of rows, as the kernels' signatures
_BLOCK_THREADS = 128  # of a block that has several narrow rows
_PAIR_BYTES = 2 * 8  # of shared memory: two float64 for each thread
_COLUMN_THREADS = 128  # of a block that adds columns


def layer_norm(x: Any, gamma: Any, beta: Any, eps: float, out: Any, statistics: Any = None) -> None:
    """Set out = (x - mean) / sqrt(variance + eps) * gamma + beta, row by row.

    Args:
        x: `[tokens, d]`, float32 or float16, contiguous, on the device as all arrays here.
        gamma, beta: `[d]`, float32.
        eps: is added to the variance.
        out: output, of the shape and type of x; may be x.
        statistics: float64 `[tokens, 2]`, takes the means and 1 / sqrt(variance + eps).

    Raises:
        UsageError: shapes or types do not fit each other.
    """
    tokens, width = _shape_of(x)
    form = _form_of(x, out)
    _check("out", out, (tokens, width), x.dtype)
    _check("gamma", gamma, (width,), np.float32)
    _check("beta", beta, (width,), np.float32)
    keeps = statistics is not None
    if keeps:
        _check("statistics", statistics, (tokens, 2), np.float64)
    else:
        statistics = _no_statistics()
    run = _fitting(layer_norm_rows, layer_norm_wide_rows, width)
    lanes = _lanes(width, run)
    groups = 1 if run is layer_norm_wide_rows else max(_BLOCK_THREADS // lanes, 1)
    run.launch(
        -(-tokens // groups), groups * lanes, x, gamma, beta, eps, out, statistics, keeps, lanes,
        form=form, shared_bytes=_PAIR_BYTES * groups * lanes,
    )  # fmt: skip


def layer_norm_backward(
    x: Any, statistics: Any, gamma: Any, grad: Any, out: Any, grad_gamma: Any, grad_beta: Any
) -> None:
    """Set out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd.

    Args:
        x: `[tokens, d]`, float32 or float16, contiguous, on the device as all arrays here.
        statistics: statistics of x, as `layer_norm` writes them.
        gamma: `[d]`, float32.
        grad: with respect to the output, of the shape and type of x.
        out: output, of the shape and type of x; may be `grad`.
        grad_gamma, grad_beta: output `[d]`, float32, the gradients with respect to gamma and beta.

    Raises:
        UsageError: shapes or types do not fit each other.
    """
    tokens, width = _shape_of(x)
    form = _form_of(x, out)
    for name, own in (("grad", grad), ("out", out)):
        _check(name, own, (tokens, width), x.dtype)
    _check("statistics", statistics, (tokens, 2), np.float64)
    for name, own in (("gamma", gamma), ("grad_gamma", grad_gamma), ("grad_beta", grad_beta)):
        _check(name, own, (width,), np.float32)
    run = _fitting(layer_norm_backward_rows, layer_norm_backward_wide_rows, width)
    blocks, lanes = -(-tokens // STRIP), _lanes(width, run)
    sums = cuda.device_array((blocks, 2, width), np.float32)
    run.launch(
        blocks, lanes, x, statistics, gamma, grad, out, sums,
        form=form, shared_bytes=_PAIR_BYTES * lanes,
    )  # fmt: skip
    columns = -(-width // _COLUMN_THREADS)
    layer_norm_parameter_sums.launch(columns, _COLUMN_THREADS, sums, grad_gamma, grad_beta)


def _fitting(rows: Kernel, wide_rows: Kernel, width: int) -> Kernel:
    """Return the kernel for rows that fit the registers of a block, or that for wider rows."""
    return rows if width <= ITEMS * rows.most_threads else wide_rows


def _lanes(width: int, run: Kernel) -> int:
    """Return the threads of a row: whole warps where a row takes more than half of one."""
    lanes = -(-width // ITEMS)
    if lanes > WARP // 2:
        lanes = -(-lanes // WARP) * WARP
    return min(lanes, run.most_threads)


@cache
def _no_statistics() -> Any:
    """Return what a kernel takes where statistics are not asked for.

    It is made once: to free memory waits for the GPU.
    """
    return cuda.device_array((1, 2), np.float64)


def _shape_of(x: Any) -> tuple[int, int]:
    if x.ndim != 2 or min(x.shape) < 1:
        raise UsageError(f"LayerNorm takes rows [tokens, d] on the device, not {list(x.shape)}")
    tokens, width = x.shape
    return tokens, width


def _form_of(x: Any, out: Any) -> int:
    """Return the index of the kernels' signature for the type of x and out."""
    if x.dtype not in _KINDS or out.dtype != x.dtype:
        raise UsageError(f"LayerNorm takes float32 or float16 for both, not {x.dtype}, {out.dtype}")
    return _KINDS.index(x.dtype)


def _check(name: str, array: Any, shape: tuple[int, ...], kind: Any) -> None:
    if tuple(array.shape) != shape or array.dtype != np.dtype(kind):
        raise UsageError(
            f"LayerNorm's {name} must be {np.dtype(kind)} {list(shape)}, "
            f"not {array.dtype} {list(array.shape)}"
        )
