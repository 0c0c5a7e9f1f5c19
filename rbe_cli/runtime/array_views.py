"""See arrays as addresses, and addresses as arrays, inside compiled kernels."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.np import arrayobj

from rbe_cli.runtime.simd import I64, kernel_intrinsic


@kernel_intrinsic
def address_of_array(typing: Any, array: Any) -> Any:
    """Return the address of an array's first element."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        own = context.make_array(signature.args[0])(context, builder, values[0])
        return builder.ptrtoint(own.data, I64)

    return types.int64(array), emit


@kernel_intrinsic
def array_at(typing: Any, dtype: Any, address: Any, count: Any) -> Any:
    """Return the array of `count` elements of a (global) numpy dtype at an address."""
    kind = types.Array(dtype.dtype, 1, "C")

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        element = context.get_data_type(kind.dtype)
        size = ir.Constant(I64, context.get_abi_sizeof(element))
        array = context.make_array(kind)(context, builder)
        populate: Any = arrayobj.populate_array  # whose annotations are missing
        populate(
            array,
            builder.inttoptr(values[1], element.as_pointer()),
            [values[2]],
            [size],
            size,
            None,
        )
        return array._getvalue()

    return kind(dtype, types.int64, types.int64), emit
