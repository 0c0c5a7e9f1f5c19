"""List every compiled program of the package, and the library whose object file holds it."""

from typing import NamedTuple

from rbe_cli.runtime.instruction_sets import InstructionSet


class Program(NamedTuple):
    """Describe a compiled function that Python may call (native.py).

    Attributes:
        module, function: where it is defined. Its first argument is the arithmetic
            (arithmetic.py), which Python does not pass.
        parameters: Numba's names of the types of the other arguments: int64, float64, or
            contiguous arrays such as `float32[:, ::1]`.
        has_result: whether it returns an int64; nothing otherwise.
    """

    module: str
    function: str
    parameters: tuple[str, ...]
    has_result: bool = False

    @property
    def symbol(self) -> str:
        """Return the name of the machine code in its object file."""
        return f"rbe_{self.function}"


def _numbers(count: int) -> tuple[str, ...]:
    return ("int64",) * count


_TEAM_RUN = _numbers(3)  # a thread's number, the number of threads, a record's address

_PRODUCTS = "rbe_cli.kernels.linear.multiply"
_LAYER_NORM = "rbe_cli.kernels.layer_norm.layer_norm_program"

WORK = Program("rbe_cli.runtime.team_programs", "work", _numbers(3))
LEAD = Program("rbe_cli.runtime.team_programs", "lead", _numbers(2))
READ = Program("rbe_cli.runtime.team_programs", "read", _TEAM_RUN)
MULTIPLY = Program(_PRODUCTS, "multiply_program", _numbers(13))
MULTIPLY_INT8 = Program(_PRODUCTS, "multiply_int8_program", _numbers(13))
ATTEND = Program("rbe_cli.kernels.attention.cached_attention", "attend_program", _numbers(11))
FORWARD = Program("rbe_cli.engine.forward_program", "forward", _TEAM_RUN)
LINEAR = Program("rbe_cli.kernels.linear.linear_program", "linear_program", _TEAM_RUN)

_PRODUCT = "rbe_cli.algebra.product_program"
PRODUCT = Program(_PRODUCT, "product_program", _TEAM_RUN)
DOUBLE_PRODUCT = Program(_PRODUCT, "double_product_program", _TEAM_RUN)
EXPONENTIALS = Program("rbe_cli.algebra.exponential_program", "exponentials_program", _numbers(3))

ACTIVATE = Program("rbe_cli.kernels.activations.vector_math", "activate_program", _TEAM_RUN)
ATTENTION = Program("rbe_cli.kernels.attention.attention_program", "attention_program", _TEAM_RUN)
LAYER_NORM = Program(_LAYER_NORM, "layer_norm_program", _TEAM_RUN)
LAYER_NORM_BACKWARD = Program(_LAYER_NORM, "layer_norm_backward_program", _TEAM_RUN)

_F32_1D, _F32_2D, _F32_3D = "float32[::1]", "float32[:, ::1]", "float32[:, :, ::1]"
_F64_2D, _F64_3D = "float64[:, ::1]", "float64[:, :, ::1]"
_I8_1D, _I16_1D, _I16_2D = "int8[::1]", "int16[::1]", "int16[:, ::1]"
_I32_1D, _I32_2D = "int32[::1]", "int32[:, ::1]"
_I64_1D, _I64_2D = "int64[::1]", "int64[:, ::1]"
_U8_1D, _U8_2D = "uint8[::1]", "uint8[:, ::1]"
_U16_1D, _U16_3D, _U32_1D = "uint16[::1]", "uint16[:, :, ::1]", "uint32[::1]"
_SEARCH = (  # trellis.Search
    _U8_1D, _F64_3D, "float64", _F32_3D, _I64_1D, _F32_1D, _I32_1D, _I32_2D, _F64_2D, _U8_2D,
    _F64_2D,
)  # fmt: skip
_ENCODER_TABLES = _U16_3D, _U16_3D, _I64_1D  # rans.EncoderTables
_SOURCE = _U16_1D, _U32_1D, _U32_1D, _I64_1D  # rans_decoder.LaneSource
_RANS = "rbe_cli.codec.entropy.rans_programs"

RANS_ENCODE = Program(
    _RANS, "encode_block",
    (_I32_2D, *[_I16_1D] * 4, _I16_2D, _U8_1D, *_ENCODER_TABLES, _I64_1D, _U8_2D, _U16_1D), True,
)  # fmt: skip
RANS_DECODE_LEVELS = Program(
    _RANS, "decode_levels", (*_SOURCE, _I16_2D, *[_I16_1D] * 3), True,
)  # fmt: skip
RANS_DECODE = Program(
    _RANS, "decode_block",
    (*_SOURCE, "int64", _I16_1D, _I16_1D, _U32_1D, _I16_1D, _I16_2D), True,
)  # fmt: skip
RANS_PUT_RUN = Program(
    _RANS, "put_run_program", (_I16_1D, *_numbers(2), *_ENCODER_TABLES, _I64_1D, _U16_1D, "int64"),
    True,
)  # fmt: skip
RANS_GET_RUN = Program(
    _RANS, "get_run_program", (*_SOURCE, *_numbers(2), _I16_1D), True,
)  # fmt: skip
UNPACK_BLOCKS = Program("rbe_cli.codec.ectcq.unpack_programs", "unpack_blocks", _TEAM_RUN)
QUANTISE_SEGMENT = Program(
    "rbe_cli.codec.ectcq.trellis_programs", "quantise_segment_program",
    (_F32_1D, "int64", _I16_1D, _U8_1D, *_SEARCH, _I32_1D, "int64"), True,
)  # fmt: skip
QUANTISE_ROWS = Program(
    "rbe_cli.codec.ectcq.feedback_programs", "quantise_rows",
    (*[_F32_2D] * 4, _I16_1D, _U8_2D, *_SEARCH, _F32_2D, _F32_1D, _I64_2D, _F32_2D, _I32_2D),
)  # fmt: skip
QUANTISE_FIXED_ROWS = Program(
    "rbe_cli.codec.fixed.fixed_programs", "quantise_fixed_rows",
    (
        *[_F32_2D] * 3, _F32_3D, _I64_1D, _F32_1D, _F32_1D, _U8_1D, "float64", "int64",
        _F32_2D, _F32_1D, _U8_2D, _I8_1D,
    ),
)  # fmt: skip

DESCEND_COLUMNS = Program(
    "rbe_cli.codec.fixed.descent_programs", "descend_columns",
    (
        *[_F32_2D] * 3, *[_F32_1D] * 4, _U8_1D, *_numbers(3), _F32_2D, _U8_2D, _U8_2D, _I8_1D,
    ),
)  # fmt: skip

_FACTOR = "rbe_cli.algebra.factor_programs"
CHOLESKY = Program(_FACTOR, "cholesky_program", (_F64_2D,), True)
INVERSE = Program(_FACTOR, "inverse_program", (_F64_2D, _F64_2D))
JACOBI = Program(_FACTOR, "jacobi_program", (_F64_2D, _F64_2D))

LIBRARIES: dict[str, tuple[Program, ...]] = {
    "algebra": (PRODUCT, DOUBLE_PRODUCT, EXPONENTIALS, CHOLESKY, INVERSE, JACOBI),
    "products": (MULTIPLY, MULTIPLY_INT8),
    "engine": (WORK, LEAD, READ, ATTEND, FORWARD, LINEAR),
    "layers": (ACTIVATE, ATTENTION, LAYER_NORM, LAYER_NORM_BACKWARD),
    "codec": (
        RANS_ENCODE, RANS_DECODE_LEVELS, RANS_DECODE, RANS_PUT_RUN, RANS_GET_RUN, UNPACK_BLOCKS,
        QUANTISE_SEGMENT, QUANTISE_ROWS, QUANTISE_FIXED_ROWS, DESCEND_COLUMNS,
    ),
}  # fmt: skip
"""Programs of a library share functions, which are compiled once for all of them."""


def library_of(program: Program) -> str:
    """Return the name of the library that holds a program."""
    return next(name for name, programs in LIBRARIES.items() if program in programs)


def compiled_set(library: str, instructions: InstructionSet) -> InstructionSet:
    """Return the instruction set that a library is compiled for, to run beside that set's others.

    Products alone use instructions for matrices.
    """
    is_plain = instructions is InstructionSet.amx and library != "products"
    return InstructionSet.avx512 if is_plain else instructions
