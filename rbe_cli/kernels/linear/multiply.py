"""Multiply tokens by panels of a matrix, whatever its form and however many tokens there are."""

from typing import Any

from rbe_cli.kernels.linear.matrix_driver import many_tokens_by_matrices
from rbe_cli.kernels.linear.matrix_registers import has_matrix_registers, without_matrices
from rbe_cli.kernels.linear.operands import Operands
from rbe_cli.kernels.linear.products import many_tokens, multiply_floats, one_token
from rbe_cli.kernels.linear.quad_products import int8_arithmetic
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import record
from rbe_cli.weights.matrix_record import FLOATS, MATRIX

_LEAST_TOKENS = 8  # for which instructions for matrices are faster


@program_code
def multiply(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    """Multiply `operands` by panels `first` to `last` of a matrix (matrix_record.MATRIX)."""
    if matrix.form == FLOATS:
        multiply_floats(matrix, operands, first, last)
    elif operands.tokens == 1:
        one_token(arithmetic, matrix, operands, first, last)
    elif has_matrix_registers(arithmetic) and operands.tokens >= _LEAST_TOKENS:
        many_tokens_by_matrices(arithmetic, matrix, operands, first, last)
    else:
        many_tokens(without_matrices(arithmetic), matrix, operands, first, last)


@program_code
def multiply_program(
    arithmetic: Any, matrix: int, tokens: int, x: int, x_stride: int, quantised_inputs: int,
    stride: int, out: int, out_stride: int, accumulate: int, activation: int, scratch: int,
    first: int, last: int,
) -> None:  # fmt: skip
    """Run `multiply` for other programs, which call it by its address."""
    operands = Operands(
        tokens, x, x_stride, quantised_inputs, stride, out, out_stride, accumulate, activation,
        scratch,
    )  # fmt: skip
    multiply(arithmetic, record(MATRIX, matrix), operands, first, last)


@program_code
def multiply_int8_program(
    arithmetic: Any, matrix: int, tokens: int, x: int, x_stride: int, quantised_inputs: int,
    stride: int, out: int, out_stride: int, accumulate: int, activation: int, scratch: int,
    first: int, last: int,
) -> None:  # fmt: skip
    """Run `multiply_program` with int8 activations."""
    multiply_program(
        int8_arithmetic(arithmetic), matrix, tokens, x, x_stride, quantised_inputs, stride, out,
        out_stride, accumulate, activation, scratch, first, last,
    )  # fmt: skip
