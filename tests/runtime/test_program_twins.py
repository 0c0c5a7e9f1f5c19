"""Each compiled program has a test that compares it on all instruction sets.

A new program fails here until it is listed with such a test.
"""

import ast
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.libraries import LIBRARIES
from rbe_cli.runtime.memory_bandwidth import Reader
from rbe_cli.runtime.team_records import FLAG_BYTES
from rbe_cli.runtime.thread_team import get_team

TESTS = Path(__file__).parents[1]
SESSION = "engine/test_session.py::test_tokens_threads_and_instructions_give_the_same_bits"
UNPACKING = "codec/test_unpacking.py::test_panels_are_those_of_the_packer_in_numpy"
RANS = "codec/test_rans.py::test_every_instruction_set"
FACTORS = "algebra/test_factors.py::test_all_instruction_sets_give_the_same_bits"
LAYERS = "kernels/test_layer_bits.py::test_"
MATMUL = "kernels/test_matmul.py::test_equals_the_twin"
PRODUCTS = "algebra/test_dense_products.py::test_all_sets_layouts_and_threads_give_the_same_bits"
COMPARED = {
    "product_program": PRODUCTS,
    "double_product_program": PRODUCTS,
    "exponentials_program": (
        "algebra/test_elementary.py::test_exponentials_of_all_instruction_sets"
    ),
    "cholesky_program": FACTORS,
    "inverse_program": FACTORS,
    "jacobi_program": FACTORS,
    "multiply_program": MATMUL,
    "multiply_int8_program": MATMUL,
    "linear_program": MATMUL,
    "work": SESSION,
    "lead": SESSION,
    "attend_program": SESSION,
    "forward": SESSION,
    "read": "runtime/test_program_twins.py::test_memory_is_read_alike",
    "activate_program": f"{LAYERS}activations",
    "attention_program": f"{LAYERS}attention",
    "layer_norm_program": f"{LAYERS}layer_norm",
    "layer_norm_backward_program": f"{LAYERS}layer_norm_backward",
    "encode_block": f"{RANS}_encodes_alike",
    "decode_levels": f"{RANS}_decodes_alike",
    "decode_block": f"{RANS}_decodes_alike",
    "put_run_program": f"{RANS}_codes_runs_alike",
    "get_run_program": f"{RANS}_codes_runs_alike",
    "unpack_blocks": UNPACKING,
    "quantise_segment_program": (
        "codec/test_trellis.py::test_every_instruction_set_finds_the_same_path"
    ),
    "quantise_rows": (
        "codec/test_error_feedback.py::test_every_instruction_set_gives_the_same_integers"
    ),
    "quantise_fixed_rows": (
        "codec/test_fixed_encoder.py::test_every_instruction_set_gives_the_same_codes"
    ),
    "descend_columns": (
        "codec/test_coordinate_descent.py::test_every_instruction_set_gives_the_same_codes"
    ),
}
"""Name of a program -> the test."""
PROGRAMS = [program.function for programs in LIBRARIES.values() for program in programs]


@cache
def source(path):
    return (TESTS / path).read_text("utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_compared_on_all_instruction_sets(program):
    path, _, name = COMPARED[program].partition("::")
    functions = [own.name for own in ast.parse(source(path)).body if hasattr(own, "name")]
    assert name in functions
    assert "available()" in source(path) or "team" in source(path)


def test_no_program_is_listed_that_is_gone():
    assert COMPARED.keys() == set(PROGRAMS)


@pytest.mark.parametrize("size", [0, 255, 256, 1000, 70_000])
def test_memory_is_read_alike(size):
    found = []
    for instructions in available():
        reader = Reader(get_team(1, instructions), size)
        reader._memory[:] = np.arange(size) % 251
        reader()
        found.append(reader._sums[: FLAG_BYTES // 32].tobytes())
    assert set(found) == {found[0]}
