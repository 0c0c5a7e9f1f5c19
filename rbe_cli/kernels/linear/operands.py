"""Say what a matrix is multiplied by, and where its outputs go."""

from typing import Any, NamedTuple

from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import fused, load_floats, store_floats
from rbe_cli.weights.panel_layout import VECTOR_BYTES


class Operands(NamedTuple):
    """Say what a matrix is multiplied by, and where to: addresses, and strides in bytes.

    Attributes:
        tokens: number of tokens.
        x, x_stride: float32, for weights in float32.
        quantised_inputs, stride: the same as `products.quantise` writes it, for all others.
        out, out_stride: float32, writable to N'.
        accumulate: add to what `out` holds.
        scratch: memory of this thread, `kernel_records.scratch_bytes(rows)`.
    """

    tokens: int
    x: int
    x_stride: int
    quantised_inputs: int
    stride: int
    out: int
    out_stride: int
    accumulate: bool
    scratch: int


@program_code
def finish(matrix: Any, panel: int, total: Any, operands: Any, token: int) -> None:
    """Store a token's 16 outputs, total * steps + bias, or add them to what is there."""
    column = panel * VECTOR_BYTES
    out = operands.out + token * operands.out_stride + column
    steps, bias = load_floats(matrix.column_steps + column), load_floats(matrix.bias + column)
    result = fused(total, steps, bias)
    if operands.accumulate:
        result = result + load_floats(out)
    store_floats(out, result)
