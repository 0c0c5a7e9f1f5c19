"""Give kernels the instructions that numba-cuda has no functions for, as inline PTX.

numba-cuda offers neither dot products of bytes (`dp4a`) nor tensor cores (`mma`), but functions
that emit LLVM's instructions, and these may be assembly. In Numba's simulator, `simulated_ptx`
computes the same. The instructions are described in NVIDIA's "Parallel Thread Execution ISA": dp4a
needs a compute capability of 6.1, `mma.m16n8k32` one of 8.0.
"""

from typing import Any

from rbe_cli.cuda.device import is_simulated

if is_simulated():
    from rbe_cli.cuda.simulated_ptx import add_products, fused, multiply_tile
else:
    from llvmlite import ir
    from numba import cuda
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    _I32 = ir.IntType(32)
    _SUMS = types.UniTuple(types.int32, 4)

    @cuda.jit(device=True)
    def fused(a: Any, b: Any, c: Any) -> Any:
        """Return a b + c of float32 numbers, rounded once."""
        return cuda.fma(a, b, c)

    @intrinsic
    def add_products(typing: Any, a: Any, b: Any, total: Any) -> Any:
        """Return total plus the products of the four signed bytes of two words (uint32)."""

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            kind = ir.FunctionType(_I32, [_I32] * 3)
            code = ir.InlineAsm(kind, "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r")
            return builder.call(code, values)

        return types.int32(types.uint32, types.uint32, types.int32), emit

    @intrinsic
    def multiply_tile(
        typing: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any,
        c2: Any, c3: Any,
    ) -> Any:  # fmt: skip
        """Multiply 16 x 32 signed bytes by 32 x 8 with a warp, and add that to sums (int32).

        With g = lane / 4 and t = lane % 4, a thread passes the words (uint32, four bytes along the
        32 each) number t of rows g and g + 8 as `a0` and `a1`, and number t + 4 as `a2` and `a3`;
        those of column g as `b0` and `b1`; and it holds the sums of row g, columns 2 t and
        2 t + 1, and the same of row g + 8. All threads of a warp call it together.
        """

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            kind = ir.FunctionType(ir.LiteralStructType([_I32] * 4), [_I32] * 10)
            text = (
                "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
            )
            code = ir.InlineAsm(kind, text, ",".join(["=r"] * 4 + ["r"] * 10), side_effect=True)
            # Without the attribute, a compiler could move it to where threads have parted.
            found = builder.call(code, values, attrs=("convergent",))
            parts = [builder.extract_value(found, place) for place in range(4)]
            return context.make_tuple(builder, _SUMS, parts)

        word, number = types.uint32, types.int32
        return _SUMS(*[word] * 6, *[number] * 4), emit


__all__ = ["add_products", "fused", "multiply_tile"]
