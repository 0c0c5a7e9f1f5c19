"""Compute out = x W + bias for a matrix in panels, with a team's threads (linear_program.py)."""

import numpy as np

from rbe_cli.kernels.kernel_records import (
    ACTIVATIONS,
    MATMUL,
    padded_tokens,
    quantised_bytes,
    scratch_bytes,
)
from rbe_cli.model.config import Activation
from rbe_cli.runtime.addresses import address, float_address, whole_lines
from rbe_cli.runtime.arrays import Float32, Norm
from rbe_cli.runtime.libraries import LINEAR, MULTIPLY, MULTIPLY_INT8
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS
from rbe_cli.weights.panel_matrix import PanelMatrix

_MOST_TOKENS = 256  # at once, so that their sums stay in the cache
_MIN_PARALLEL_WORK = 1 << 18  # multiplications; below, waking a thread costs more than it saves


def matmul(
    team: Team,
    x: Float32,
    matrix: PanelMatrix,
    bias: Float32,
    out: Float32,
    norm: Norm | None = None,
    activation: Activation | None = None,
    *,
    takes_int8: bool = False,
) -> None:
    """Multiply tokens by a matrix `[K, N]`: out = activation(norm(x) W + bias).

    Args:
        team: the threads that compute.
        x: `[tokens, K]`, contiguous.
        matrix: weights in panels.
        bias: float32 `[N]`.
        out: `[tokens, N]`, contiguous.
        norm: LayerNorm of x, before the product.
        activation: activation function of the result.
        takes_int8: round x to 8 bits instead of 16.
    """
    program, multiply = load([LINEAR, MULTIPLY_INT8 if takes_int8 else MULTIPLY], team.instructions)
    rows, columns = matrix.shape
    tokens = min(len(x), _MOST_TOKENS)
    padded_bias = matrix.in_panels(bias)
    # Where the sizes are those of panels, x and out serve as they are.
    own_x = norm is not None or rows % TILE_ROWS != 0
    own_out = matrix.writes_padding and columns % PANEL_COLUMNS != 0
    padded_x = np.zeros((tokens, matrix.tiles * TILE_ROWS) if own_x else 0, np.float32)
    padded_out = np.empty((tokens, padded_bias.size) if own_out else 0, np.float32)
    quantised_inputs = whole_lines(padded_tokens(tokens), quantised_bytes(rows))
    scratch = whole_lines(team.threads, scratch_bytes(tokens, rows))
    job = np.zeros(1, MATMUL)
    job["matrix"], job["multiply"] = matrix.record, multiply.address
    job["matrix"]["bias"], job["flags"] = address(padded_bias), team.flags
    job["matrix"]["takes_int8"] = takes_int8
    job["quantised_inputs"] = address(quantised_inputs)
    job["quantised_bytes"] = quantised_inputs.strides[0]
    job["scratch"], job["scratch_bytes"] = address(scratch), scratch.strides[0]
    job["activation"] = -1 if activation is None else ACTIVATIONS[activation]
    if norm is not None:
        job["gamma"], job["beta"], job["eps"] = (
            float_address(norm.gamma),
            float_address(norm.beta),
            norm.eps,
        )
    for start in range(0, len(x), _MOST_TOKENS):
        source, target = x[start : start + _MOST_TOKENS], out[start : start + _MOST_TOKENS]
        if own_x and norm is None:
            padded_x[: len(source), :rows] = source
        used_x, used_out = padded_x if own_x else source, padded_out if own_out else target
        job["source"], job["source_stride"] = float_address(source), source.strides[0]
        job["x"], job["x_stride"] = address(used_x), used_x.strides[0]
        job["out"], job["out_stride"] = float_address(used_out), used_out.strides[0]
        job["tokens"] = len(source)
        small = len(source) * rows * columns < _MIN_PARALLEL_WORK
        team.run(program, address(job), 1 if small else None)
        if own_out:
            target[:] = padded_out[: len(source), :columns]
