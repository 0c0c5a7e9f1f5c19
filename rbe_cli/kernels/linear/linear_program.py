"""Run a linear layer as one program, a LayerNorm before it and an activation function after it.

What is fused need not go through memory: rows are normalised as they are rounded for the
product, and outputs are activated before they are stored.
"""

from typing import Any

from rbe_cli.kernels.kernel_records import MATMUL
from rbe_cli.kernels.layer_norm.layer_norm_program import layer_norm_row
from rbe_cli.kernels.linear.products import quantise
from rbe_cli.kernels.linear.quad_products import int8_arithmetic
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import address_of, invoke, record
from rbe_cli.runtime.team_programs import barrier, share


@program_code
def linear_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Compute activation(LayerNorm(x) W + bias).

    All parts round x, then each computes its own panels.
    """
    job = record(MATMUL, job_address)
    if job.matrix.takes_int8 != 0:
        _run(int8_arithmetic(arithmetic), job, part, parts)
    else:
        _run(arithmetic, job, part, parts)


@program_code
def _run(arithmetic: Any, job: Any, part: int, parts: int) -> None:
    """Compute it with activations of the arithmetic's width."""
    matrix = job.matrix
    stride = job.quantised_bytes
    for token in range(share(job.tokens, part, parts), share(job.tokens, part + 1, parts)):
        x = job.x + token * job.x_stride
        if job.gamma != 0:
            source = job.source + token * job.source_stride
            layer_norm_row(source, matrix.rows, job.gamma, job.beta, job.eps, x)
        quantise(
            arithmetic, x, matrix.row_steps, matrix.rows, job.quantised_inputs + token * stride
        )
    barrier(job.flags, part, parts)
    numbers = (
        address_of(matrix), job.tokens, job.x, job.x_stride, job.quantised_inputs, stride,
        job.out, job.out_stride, 0, job.activation, job.scratch + part * job.scratch_bytes,
        share(matrix.panels, part, parts), share(matrix.panels, part + 1, parts),
    )  # fmt: skip
    invoke(job.multiply, numbers)
