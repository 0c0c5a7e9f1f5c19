"""Fused multiply-adds and float16: the same bits with the instructions and without them."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.runtime import build, elf_object, native, object_files
from rbe_cli.runtime.instruction_sets import InstructionSet, available
from rbe_cli.runtime.libraries import LIBRARIES, Program

MODULE = "runtime.floating_programs"
ARRAY, NUMBER = "float32[::1]", "int64"
PROGRAMS = (
    Program(MODULE, "fuse_scalars", (ARRAY,) * 4),
    Program(MODULE, "fuse_vectors", (NUMBER,) * 5),
    Program(MODULE, "widen_halfs", (NUMBER,) * 3),
    Program(MODULE, "narrow_floats", (NUMBER,) * 3),
    Program(MODULE, "add_products", (ARRAY,) * 4),
)
FLOATS = st.floats(width=32)
OVERFLOW = 2**128 - 2**103  # from here on, the nearest float32 is infinite


@cache
def compiled(instructions):
    """The machine code of the programs, for any architecture."""
    return object_files.code_of(build.compile_library("floating", instructions))


@pytest.fixture(scope="module", autouse=True)
def library():
    """The programs as a library of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LIBRARIES, "floating", PROGRAMS)
        yield


@pytest.fixture(scope="module", params=available(), ids=lambda own: own.name)
def programs(request, library):
    """The programs, compiled for an instruction set."""
    native._link("floating", request.param, compiled(request.param))
    return [native._loaded[program, request.param] for program in PROGRAMS]


def address(array):
    return array.ctypes.data


def nearest_float32(exact):
    """The float32 nearest to a fraction; of two, the even one."""
    with np.errstate(over="ignore"):
        guess = np.float32(float(exact))
        near = [np.nextafter(guess, np.float32(end)) for end in (-np.inf, np.inf)] + [guess]
    finite = [value for value in near if np.isfinite(value)]
    return min(
        finite,
        key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(np.uint32)) & 1),
    )


def fuse(programs, a, b, c):
    """(by scalars, by vectors) of float32 arrays of a multiple of 16 elements."""
    scalars, vectors = np.empty_like(a), np.empty_like(a)
    programs[0](a, b, c, scalars)
    programs[1](*map(address, (a, b, c, vectors)), a.size)
    return scalars, vectors


@given(FLOATS, FLOATS, FLOATS)
def test_a_fused_sum_is_rounded_once(programs, x, y, z):
    scalars, vectors = fuse(programs, *(np.full(16, own, np.float32) for own in (x, y, z)))
    np.testing.assert_array_equal(scalars, vectors)
    if not np.isfinite([x, y, z]).all():
        with np.errstate(invalid="ignore"):
            expected = np.float64(x) * np.float64(y) + np.float64(z)
        np.testing.assert_array_equal(scalars[0], np.float32(expected))
        return
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if abs(exact) >= OVERFLOW:
        assert scalars[0] == (np.inf if exact > 0 else -np.inf)
    else:
        assert scalars[0] == nearest_float32(exact)


def test_sums_that_two_roundings_get_wrong(programs):
    """a b is half a last place of c more or less a bit that float64 loses beside c."""
    one, tiny = np.float32(1), np.float32(2.0**-60)
    a = np.full(16, 2.0**-24, np.float32) * (one + np.float32(2.0**-23))
    b = np.resize(np.array([1, -1, 1 - 2.0**-24, 2.0**-24], np.float32), 16)
    c = np.resize(np.array([1, -1, 1 + 2.0**-23, 3, tiny, -tiny, 0, -0.0], np.float32), 16)
    scalars, vectors = fuse(programs, a, b, c)
    expected = [
        nearest_float32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    np.testing.assert_array_equal(scalars, np.array(expected))
    np.testing.assert_array_equal(vectors, np.array(expected))


def test_every_half_becomes_its_float(programs):
    halfs = np.arange(2**16, dtype=np.uint16)
    found = np.empty(halfs.size, np.float32)
    programs[2](address(halfs), address(found), halfs.size)
    expected = halfs.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(
        found.view(np.uint32)[~np.isnan(expected)], expected.view(np.uint32)[~np.isnan(expected)]
    )
    assert np.isnan(found[np.isnan(expected)]).all()


def test_floats_become_the_nearest_half(programs):
    halfs = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(halfs[np.isfinite(halfs)])
    middles = (finite[:-1] + finite[1:]) / 2  # ties, and what is just beside them
    beside = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    any_bits = np.random.default_rng(0).integers(0, 2**32, 2**16, np.uint32).view(np.float32)
    x = np.concatenate([halfs, middles, *beside, any_bits])
    x = np.append(x, np.zeros(-x.size % 16, np.float32))
    found = np.empty(x.size, np.float16)
    programs[3](address(x), address(found), x.size)
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(found.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])
    assert np.isnan(found[is_nan]).all()


def test_a_product_and_a_sum_are_rounded_apart(programs):
    """Also where the CPU could fuse them, and the loop becomes one of vectors."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 4096), np.float32)
    c = -a * b
    out = np.empty_like(a)
    programs[4](a, b, c, out)
    np.testing.assert_array_equal(out, 0)
    assert fuse(programs, a, b, c)[0].any()


@pytest.mark.parametrize("instructions", [InstructionSet.neon, InstructionSet.portable])
def test_no_c_library_is_called(instructions):
    """x86-64-v2 lacks fused multiply-adds and float16; LLVM would call functions for both."""
    code = compiled(instructions)
    symbols = elf_object._symbols(code, elf_object._sections(code))
    assert {program.symbol for program in PROGRAMS} <= {own.name for own in symbols}
    assert not [own.name for own in symbols if own.is_outside]


def test_64_bit_arm_has_vector_code():
    """Among the instructions are `fmla v.4s`, `fcvtl v.4s` and `fcvtn v.4h`."""
    words = np.frombuffer(compiled(InstructionSet.neon)[64:640], np.uint32)
    for code, mask in ((0x4E20CC00, 0xFFE0FC00), (0x0E217800, ~0x3FF), (0x0E216800, ~0x3FF)):
        assert np.count_nonzero(words & np.uint32(mask % 2**32) == code) >= 2
