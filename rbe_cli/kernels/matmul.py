"""out = x W + bias for a matrix in panels, by the threads of a team (products.py says how)."""

import numpy as np

from rbe_cli.codec.panels import PANEL_COLUMNS, TILE_ROWS
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.native import Entry, load
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.records import MATMUL, activation_bytes, address, scratch_bytes
from rbe_cli.kernels.team import Team

MATMUL_PROGRAM = Entry("rbe_cli.kernels.programs", "matmul", 3)
_MOST_TOKENS = 256  # at once, so that their sums stay in the cache
_MIN_PARALLEL_WORK = 1 << 18  # multiplications; below, waking a thread costs more than it saves


def matmul(team: Team, x: Float32, matrix: PanelMatrix, bias: Float32, out: Float32) -> None:
    """A matrix `[K, N]` times tokens.

    Args:
        team: computes.
        x: `[tokens, K]`.
        matrix: in panels.
        bias: `[N]`.
        out: `[tokens, N]`.
    """
    for start in range(0, len(x), _MOST_TOKENS):
        part = slice(start, start + _MOST_TOKENS)
        _multiply(team, x[part], matrix, bias, out[part])


def _multiply(team: Team, x: Float32, matrix: PanelMatrix, bias: Float32, out: Float32) -> None:
    (program,) = load([MATMUL_PROGRAM], team.instructions)
    tokens, rows = x.shape
    columns = out.shape[1]
    panel_count = int(matrix.record["panels"][0])
    padded = np.zeros((tokens, matrix.tiles * TILE_ROWS), np.float32)
    padded[:, :rows] = x
    padded_bias = np.zeros(panel_count * PANEL_COLUMNS, np.float32)
    padded_bias[:columns] = bias
    result = np.empty((tokens, padded_bias.size), np.float32)
    activations = np.empty((tokens, activation_bytes(rows)), np.uint8)
    scratch = np.empty((team.threads, scratch_bytes(tokens)), np.uint8)
    job = np.zeros(1, MATMUL)
    job["matrix"] = matrix.record
    job["matrix"]["bias"] = address(padded_bias)
    job["tokens"], job["flags"] = tokens, team.flags
    job["x"], job["x_stride"] = address(padded), padded.strides[0]
    job["out"], job["out_stride"] = address(result), result.strides[0]
    job["activations"], job["activation_bytes"] = address(activations), activations.strides[0]
    job["scratch"], job["scratch_bytes"] = address(scratch), scratch.strides[0]
    small = tokens * rows * columns < _MIN_PARALLEL_WORK
    team.run(program, address(job), 1 if small else None)
    out[:] = result[:, :columns]
