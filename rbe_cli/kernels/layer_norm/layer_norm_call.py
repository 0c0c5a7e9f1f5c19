"""Normalise rows of arrays, with the threads of a team (layer_norm_program.py)."""

from typing import Literal

import numpy as np

from rbe_cli.kernels.kernel_records import LAYER_NORM, LAYER_NORM_BACKWARD
from rbe_cli.runtime.addresses import address, float_address
from rbe_cli.runtime.arrays import Float32, Float64, Floating
from rbe_cli.runtime.libraries import LAYER_NORM as LAYER_NORM_PROGRAM
from rbe_cli.runtime.libraries import LAYER_NORM_BACKWARD as LAYER_NORM_BACKWARD_PROGRAM
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team

Passes = Literal["fused", "standard"]
_BLOCK_ROWS = 64  # that are summed for gamma and beta by one thread, whatever their number
_LEAST_STREAM = 4_000_000  # bytes of a result that is too large for the cache
_MIN_PARALLEL_ELEMENTS = 1 << 16  # below, waking a thread costs more than it saves


def layer_norm(
    team: Team,
    x: Floating,
    gamma: Float32,
    beta: Float32,
    eps: float,
    out: Floating,
    statistics: Float64 | None = None,
    passes: Passes = "fused",
) -> None:
    """Set out = (x - mean) / sqrt(variance + eps) * gamma + beta, row by row.

    Args:
        team: the threads that compute.
        x: `[tokens, d]`, float32 or float16, contiguous.
        gamma, beta: `[d]`.
        eps: added to the variance.
        out: output, of the shape and type of x.
        statistics: `[tokens, 2]`, takes the means and 1 / sqrt(variance + eps).
        passes: `fused`, all of a row at once, or `standard`: a pass over all rows for the means,
            another for the variances, a third for the result. Both give the same bits.
    """
    (program,) = load([LAYER_NORM_PROGRAM], team.instructions)
    if statistics is None:
        statistics = np.empty((len(x), 2))
    job = np.zeros(1, LAYER_NORM)
    locate = address if x.dtype == out.dtype == np.float16 else float_address
    job["x"], job["out"], job["x_stride"] = locate(x), locate(out), x.strides[0]
    job["gamma"], job["beta"], job["eps"] = float_address(gamma), float_address(beta), eps
    job["statistics"], job["flags"] = address(statistics), team.flags
    job["tokens"], job["length"] = x.shape
    job["is_half"], job["fused"] = x.dtype == np.float16, passes == "fused"
    is_aligned = address(out) % 16 == 0 and out.strides[0] % 16 == 0
    job["streams"] = is_aligned and out.nbytes >= _LEAST_STREAM
    team.run(program, address(job), 1 if x.size < _MIN_PARALLEL_ELEMENTS else None)


def layer_norm_backward(
    team: Team, x: Float32, statistics: Float64, gamma: Float32, grad: Float32, out: Float32
) -> tuple[Float32, Float32]:
    """Set out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd.

    Args:
        team: the threads that compute.
        x: `[tokens, d]`, contiguous.
        statistics: statistics of x, as `layer_norm` writes them.
        gamma: `[d]`.
        grad: with respect to the output, as x.
        out: output, of the shape and type of x; may be `grad`.

    Returns:
        The gradients with respect to gamma and beta, `[d]`.
    """
    (program,) = load([LAYER_NORM_BACKWARD_PROGRAM], team.instructions)
    tokens, length = x.shape
    blocks = -(-tokens // _BLOCK_ROWS)
    sums = np.empty((blocks, 2, length), np.float32)
    job = np.zeros(1, LAYER_NORM_BACKWARD)
    job["x"], job["grad"], job["out"] = (float_address(own) for own in (x, grad, out))
    job["x_stride"], job["statistics"] = x.strides[0], address(statistics)
    job["gamma"], job["sums"] = float_address(gamma), address(sums)
    job["tokens"], job["length"] = x.shape
    job["blocks"], job["block_rows"] = blocks, _BLOCK_ROWS
    team.run(program, address(job), 1 if x.size < _MIN_PARALLEL_ELEMENTS else None)
    gradients = sums.sum(axis=0, dtype=np.float64).astype(np.float32)  # [2, d]
    return gradients[0], gradients[1]
