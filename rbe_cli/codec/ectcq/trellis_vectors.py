"""Emit the vector instructions of the Viterbi search (trellis_programs.py)."""

from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.codec.ectcq.trellis import state_labels
from rbe_cli.codec.entropy.entropy_model import ESCAPE, SYMBOL_OFFSET, SYMBOLS
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.lane_masks import lookup
from rbe_cli.runtime.simd import (
    DOUBLES,
    F64,
    FLOATS,
    I8,
    I32,
    INTS,
    LANES,
    VectorType,
    call,
    define,
    kernel_intrinsic,
    load,
    splat,
    store,
)

STATES = 8
_PATHS = ir.VectorType(F64, STATES)
_SUBSETS = 4
paths = VectorType("paths", _PATHS)
"""Numba's type of the costs of the paths to each of 8 states."""


@kernel_intrinsic
def store_candidates(
    typing: Any,
    arithmetic: Any,
    weights: Any,
    levels: Any,
    subsets: Any,
    rate_weight: Any,
    bits: Any,
    shift: Any,
    costs: Any,
    choices: Any,
) -> Any:
    """Find the best integer of each subset for 16 weights, and store its cost and its q.

    All arguments but `rate_weight` are addresses: of float32 `[16]`, int32 `[16]` and of the fields
    of `trellis.Search`, of which `costs` and `choices` begin at the first weight. A candidate is
    the nearest integer, or the next one towards 0, which takes fewer bits.
    """
    instructions = arithmetic.value.instructions

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, weights, levels, subsets, rate_weight, bits, shift, costs, choices = values
        emitter = _Candidates(builder, instructions, weights, levels, rate_weight, bits, shift)
        found = [emitter.best(subset, subsets) for subset in range(_SUBSETS)]
        store(builder, costs, _interleaved(builder, [cost for cost, _ in found]))
        store(builder, choices, _interleaved(builder, [q for _, q in found]))
        return context.get_dummy_value()

    numbers = [types.int64] * 3 + [types.float64] + [types.int64] * 4
    return types.void(arithmetic, *numbers), emit


class _Candidates:
    """Emit the costs of integers near 16 weights."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        instructions: InstructionSet,
        weights: ir.Value,
        levels: ir.Value,
        rate_weight: ir.Value,
        bits: ir.Value,
        shift: ir.Value,
    ) -> None:
        """Load the weights and what their entropy tables are."""
        self._builder = builder
        self._instructions = instructions
        self._weights = builder.fpext(load(builder, weights, FLOATS), DOUBLES)
        level = load(builder, levels, INTS)
        self._table = builder.mul(level, _ints(2 * SYMBOLS))
        # A shift is an int64, of which the first half is loaded.
        self._shift = lookup(builder, instructions, shift, builder.mul(level, _ints(2)))
        self._rate_weight = splat(builder, rate_weight)
        self._bits = bits

    def best(self, subset: int, subsets: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the smallest costs with integers of a subset, and their q."""
        builder, z = self._builder, subset >> 1
        residue, lowest, highest = (
            splat(builder, load(builder, subsets, F64, 8 * (3 * subset + field)))
            for field in range(3)
        )
        fours = builder.fmul(builder.fsub(self._weights, residue), _doubles(0.25))
        fours = call(builder, f"llvm.rint.v{LANES}f64", DOUBLES, fours)
        near = builder.fadd(builder.fmul(fours, _doubles(4.0)), residue)
        near = self._limited(near, lowest, highest)
        is_positive = builder.fcmp_ordered(">", near, _doubles(0.0))
        towards_0 = builder.select(is_positive, _doubles(-4.0), _doubles(4.0))
        first = self._cost(near, z)
        second = self._cost(self._limited(builder.fadd(near, towards_0), lowest, highest), z)
        is_cheaper = builder.fcmp_ordered("<", second[0], first[0])
        return (
            builder.select(is_cheaper, second[0], first[0]),
            builder.select(is_cheaper, second[1], first[1]),
        )

    def _limited(self, integers: ir.Value, lowest: ir.Value, highest: ir.Value) -> ir.Value:
        builder = self._builder
        integers = builder.select(builder.fcmp_ordered("<", integers, lowest), lowest, integers)
        return builder.select(builder.fcmp_ordered(">", integers, highest), highest, integers)

    def _cost(self, integers: ir.Value, z: int) -> tuple[ir.Value, ir.Value]:
        """Return the costs of integers given as doubles, and their q."""
        builder = self._builder
        q = builder.ashr(builder.sub(builder.fptosi(integers, INTS), _ints(z)), _ints(1))
        symbol = builder.add(builder.ashr(q, self._shift), _ints(SYMBOL_OFFSET))
        is_coded = builder.icmp_unsigned("<", symbol, _ints(ESCAPE))
        symbol = builder.select(is_coded, symbol, _ints(ESCAPE))
        index = builder.add(builder.add(self._table, _ints(z * SYMBOLS)), symbol)
        bits = lookup(builder, self._instructions, self._bits, index)
        bits = builder.fpext(builder.bitcast(bits, FLOATS), DOUBLES)
        error = builder.fsub(self._weights, integers)
        cost = builder.fadd(builder.fmul(error, error), builder.fmul(self._rate_weight, bits))
        return cost, q


def _ints(value: int) -> ir.Constant:
    return ir.Constant(INTS, [value] * LANES)


def _doubles(value: float) -> ir.Constant:
    return ir.Constant(DOUBLES, [value] * LANES)


def _interleaved(builder: ir.IRBuilder, vectors: list[ir.Value]) -> ir.Value:
    """Return the lanes 0 of all vectors, then the lanes 1, and so on; they are 1, 2 or 4."""
    groups = 1  # lanes of a vector that lie side by side
    while len(vectors) > 1:
        lanes = vectors[0].type.count
        order = [
            source * lanes + first + lane
            for first in range(0, lanes, groups)
            for source in (0, 1)
            for lane in range(groups)
        ]
        kind = ir.VectorType(I32, 2 * lanes)
        vectors = [
            builder.shuffle_vector(low, high, ir.Constant(kind, order))
            for low, high in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        groups *= 2
    return vectors[0]


def _advance(
    builder: ir.IRBuilder, metrics: ir.Value, costs: ir.Value, decisions: ir.Value
) -> ir.Value:
    """Return the costs of the best paths to all states after one more weight.

    The states a and a + 4 lead to the states 2 a and 2 a + 1. The top bit of a state is set in h0
    and not in h1, so that these two have the same z and different parities.
    """
    own = load(builder, costs, ir.VectorType(F64, _SUBSETS))
    labels = state_labels(STATES).tolist()
    ways = []
    for top in (0, 1):
        before = [state // 2 + top * STATES // 2 for state in range(STATES)]
        subset = [labels[state // 2] ^ (state & 1) ^ top for state in range(STATES)]
        ways.append(
            builder.fadd(
                builder.shuffle_vector(metrics, metrics, _order(before)),
                builder.shuffle_vector(own, own, _order(subset)),
            )
        )
    low, high = ways
    is_high = builder.fcmp_ordered("<", high, low)
    store(builder, decisions, builder.bitcast(is_high, I8))
    return builder.select(is_high, high, low)


def _order(lanes: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), lanes)


load_paths = define(paths, (types.int64,), lambda b, a: load(b, a, _PATHS))
store_paths = define(types.void, (types.int64, paths), store)
advance = define(paths, (paths, types.int64, types.int64), _advance)
