"""Compute causal attention of arrays, with the threads of a team (attention_program.py)."""

import numpy as np

from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.kernel_records import ATTENTION, score_bytes
from rbe_cli.runtime.addresses import address, float_address
from rbe_cli.runtime.arrays import Float32, Int64, Mask
from rbe_cli.runtime.libraries import ATTENTION as ATTENTION_PROGRAM
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team

_MIN_PARALLEL_WORK = 1 << 18  # multiplications; below, waking a thread costs more than it saves


def attention(
    team: Team,
    qkv: Float32,
    keys: Float32,
    values: Float32,
    rows: Int64,
    starts: Int64,
    scale: float,
    out: Float32,
    mask: Mask | None = None,
    weights: Float32 | None = None,
) -> None:
    """Attend as `rbe_cli.kernels.numpy_twins.attention` does, all arrays being contiguous.

    Masks and weights, which no generation asks for, are left to that.
    """
    if mask is not None or weights is not None:
        numpy_twins.attention(qkv, keys, values, rows, starts, scale, out, mask, weights)
        return
    (program,) = load([ATTENTION_PROGRAM], team.instructions)
    batch, seq, width = out.shape
    heads = keys.shape[1]
    length = int(starts.max()) + seq
    scratch = np.empty((team.threads, score_bytes(length)), np.uint8)
    rows, starts = (np.ascontiguousarray(own, np.int64) for own in (rows, starts))
    job = np.zeros(1, ATTENTION)
    job["qkv"], job["qkv_stride"] = float_address(qkv), 4 * qkv.shape[2]
    job["out"], job["out_stride"] = float_address(out), 4 * width
    job["keys"], job["values"] = float_address(keys), float_address(values)
    job["row_bytes"], job["head_bytes"] = keys.strides[:2]
    job["rows"], job["starts"], job["scale"] = address(rows), address(starts), scale
    job["batch"], job["seq"], job["heads"] = batch, seq, heads
    job["head_dim"] = width // heads
    job["scratch"], job["scratch_bytes"] = address(scratch), scratch.strides[0]
    team.run(program, address(job), 1 if 2 * out.size * length < _MIN_PARALLEL_WORK else None)
