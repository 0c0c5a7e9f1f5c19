"""Say what a matrix is multiplied by, and store its outputs."""

from typing import Any, NamedTuple

from rbe_cli.kernels.activations.vector_math import activated
from rbe_cli.kernels.linear.trellis_dot import scatter_lanes
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import fused, load_floats, store_floats
from rbe_cli.weights.matrix_record import TRELLIS
from rbe_cli.weights.panel_layout import VECTOR_BYTES


class Operands(NamedTuple):
    """Say what a matrix is multiplied by, and where to: addresses, and strides in bytes.

    Attributes:
        tokens: number of tokens.
        x, x_stride: float32, for weights in float32.
        quantised_inputs, stride: the same as `products.quantise` writes it, for all others.
        out, out_stride: float32, writable to N'.
        accumulate: add to what `out` holds.
        activation: of the outputs, its number in ACTIVATIONS; -1: none.
        scratch: memory of this thread, `kernel_records.scratch_bytes`.
    """

    tokens: int
    x: int
    x_stride: int
    quantised_inputs: int
    stride: int
    out: int
    out_stride: int
    accumulate: int
    activation: int
    scratch: int


@program_code
def finish(matrix: Any, panel: int, total: Any, operands: Any, token: int) -> None:
    """Store 16 outputs, activation(total * steps + bias), or add them to what is there."""
    column = panel * VECTOR_BYTES
    out = operands.out + token * operands.out_stride
    steps, bias = load_floats(matrix.column_steps + column), load_floats(matrix.bias + column)
    result = fused(total, steps, bias)
    if operands.activation >= 0:
        result = activated(operands.activation, result)
    if matrix.form == TRELLIS:
        scatter_lanes(matrix.lanes + column, out, operands.accumulate, result)
        return
    if operands.accumulate:
        result = result + load_floats(out + column)
    store_floats(out + column, result)
