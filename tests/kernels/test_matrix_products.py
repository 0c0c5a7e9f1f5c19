"""Products by instructions for matrices: the same bits as by instructions for vectors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_panels import FORMS, random_matrix

from rbe_cli.kernels.kernel_records import (
    ACTIVATIONS,
    padded_tokens,
    quantised_bytes,
    scratch_bytes,
)
from rbe_cli.runtime.addresses import address, whole_lines
from rbe_cli.runtime.instruction_sets import InstructionSet, available
from rbe_cli.runtime.libraries import MULTIPLY, MULTIPLY_INT8
from rbe_cli.runtime.native import load

pytestmark = pytest.mark.skipif(
    InstructionSet.amx not in available(), reason="this process has no instructions for matrices"
)


def quantised(rng, tokens, rows, int8):
    """Random inputs as `quantise` writes them for VNNI."""
    size = quantised_bytes(rows)
    memory = whole_lines(padded_tokens(tokens), size)
    memory[:] = rng.integers(0, 256, memory.shape)  # what lies behind the tokens must not matter
    tiles, groups = -(-rows // 32), -(-rows // 256)
    limit = 127 if int8 else 32512
    q = np.zeros((tokens, -(-tiles // 2) * 64), np.int32)
    q[:, :rows] = rng.integers(-limit, limit + 1, (tokens, rows))
    scales = rng.standard_normal((tokens, groups)).astype(np.float32)
    group_sums = np.add.reduceat(q, range(0, rows, 256), axis=1)
    headers = np.stack([scales.view(np.int32), group_sums], axis=2).reshape(tokens, -1)
    tile_sums = q.reshape(tokens, -1, 32).sum(axis=2)[:, :tiles]
    header = np.concatenate([headers, tile_sums], axis=1).astype(np.int32).view(np.uint8)
    start = -(-header.shape[1] // 64) * 64
    high = (q + 128) >> 8
    halves = [q] if int8 else [high, q - 256 * high]
    lines = np.stack([half.astype(np.int8).reshape(tokens, -1, 64) for half in halves], axis=2)
    words = lines.reshape(tokens, -1).view(np.uint8)
    memory[:tokens, : header.shape[1]] = header
    memory[:tokens, start : start + words.shape[1]] = words
    return memory


def multiply(instructions, program, matrix, x, tokens, out, accumulate, activation, span):
    (native,) = load([program], instructions)
    record = matrix.record.copy()
    bias = matrix.in_panels(np.linspace(-1, 1, matrix.shape[1], dtype=np.float32))
    record["bias"] = address(bias)
    scratch = whole_lines(1, scratch_bytes(tokens, matrix.shape[0]))
    scratch[:] = 255
    native(
        address(record), tokens, 0, 0, address(x), x.strides[0], address(out), out.strides[0],
        accumulate, activation, address(scratch), *span,
    )  # fmt: skip


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(8, 150),
    rows=st.integers(1, 700),
    columns=st.integers(1, 150),
    form=st.sampled_from(FORMS),
    int8=st.booleans(),
    accumulate=st.booleans(),
    activation=st.sampled_from([-1, *ACTIVATIONS.values()]),
    data=st.data(),
)
def test_same_bits_as_vectors(
    seed, tokens, rows, columns, form, int8, accumulate, activation, data
):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, rows, columns, form)
    x = quantised(rng, tokens, rows, int8)
    panels = int(matrix.record["panels"][0])
    first = data.draw(st.integers(0, panels - 1))
    span = first, data.draw(st.integers(first + 1, panels))
    before = rng.standard_normal((tokens, 16 * panels)).astype(np.float32)
    program = MULTIPLY_INT8 if int8 else MULTIPLY
    found = {}
    for instructions in (InstructionSet.amx, InstructionSet.avx512):
        found[instructions] = out = before.copy()
        multiply(instructions, program, matrix, x, tokens, out, accumulate, activation, span)
    np.testing.assert_array_equal(found[InstructionSet.amx], found[InstructionSet.avx512])
