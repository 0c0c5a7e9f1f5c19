"""Multiply matrices with the same bits on every CPU and any number of threads.

A BLAS sums in an order that depends on the CPU. These products take about as long (docs/objects.md
has figures). Each element is one chain of sums over the steps, from the first to the last.
"""

import threading
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.product_record import PRODUCT, SCRATCH_BYTES
from rbe_cli.errors import UsageError
from rbe_cli.runtime.addresses import address, whole_lines
from rbe_cli.runtime.libraries import DOUBLE_PRODUCT as DOUBLE_PROGRAM
from rbe_cli.runtime.libraries import PRODUCT as SINGLE_PROGRAM
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team, get_team

Kind = TypeVar("Kind", bound=np.floating[Any])
_MIN_PARALLEL_WORK = 1 << 21  # multiplications; below, waking a thread costs more than it saves
_own = threading.local()  # scratch of the calling thread


def product(
    a: NDArray[Kind],
    b: NDArray[Kind],
    out: NDArray[Kind] | None = None,
    *,
    adds: bool = False,
    team: Team | None = None,
) -> NDArray[Kind]:
    """Return the product of matrices of float32, or of float64.

    Args:
        a: `[rows, steps]`, or several as `[items, rows, steps]`; it and b may be transposed, or
            parts of others.
        b: `[steps, columns]` or `[items, steps, columns]`.
        out: `[rows, columns]` or `[items, rows, columns]`, takes the result; its rows are
            contiguous, and nothing of a and b.
        adds: add the product to `out` instead.
        team: the threads that compute; None for the calling thread.

    Raises:
        UsageError: the arrays are of other types or shapes.
    """
    shape = *a.shape[:-1], b.shape[-1]
    if out is None:
        out = np.empty(shape, a.dtype)
    size = a.itemsize
    if not (a.dtype == b.dtype == out.dtype and a.dtype in (np.float32, np.float64)):
        raise UsageError(f"products are of float32 or float64, not {a.dtype}, {b.dtype}")
    fits = a.ndim == b.ndim in (2, 3) and a.shape[-1] == b.shape[-2] and out.shape == shape
    is_whole = out.size == 0 or shape[-1] == 1 or out.strides[-1] == size
    if not (fits and is_whole) or a.shape[:-2] != b.shape[:-2]:
        raise UsageError(f"{a.shape} times {b.shape} does not fit {out.shape}")
    team = team or get_team(1)
    (program,) = load([SINGLE_PROGRAM if size == 4 else DOUBLE_PROGRAM], team.instructions)
    parts = 1 if out.size * b.shape[-2] < _MIN_PARALLEL_WORK else team.threads
    scratch = _scratch(parts)
    items = (a, b, out) if a.ndim == 3 else ()
    numbers = (
        *(address(own) for own in (a, b, out)),
        *([own.strides[0] for own in items] or [0, 0, 0]),
        *a.strides[-2:], *b.strides[-2:], out.strides[-2],
        len(a) if items else 1, *a.shape[-2:], shape[-1], adds, address(scratch), SCRATCH_BYTES,
    )  # fmt: skip
    job = np.array([numbers], PRODUCT)
    team.run(program, address(job), parts)
    return out


def _scratch(parts: int) -> NDArray[np.uint8]:
    """Return memory `[parts, SCRATCH_BYTES]`, which a thread keeps for its next product."""
    kept: NDArray[np.uint8] | None = getattr(_own, "scratch", None)
    if kept is None or len(kept) < parts:
        kept = _own.scratch = whole_lines(parts, SCRATCH_BYTES)
    return kept
