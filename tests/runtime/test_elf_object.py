"""Machine code that is placed in memory without LLVM: the same functions, and clear refusals."""

import ctypes
import math
import struct

import numpy as np
import pytest

from rbe_cli.runtime import elf_object, native, object_files
from rbe_cli.runtime.elf_object import place_object
from rbe_cli.runtime.instruction_sets import available, ships_objects
from rbe_cli.runtime.libraries import LIBRARIES, RANS_GET_RUN, compiled_set

pytestmark = pytest.mark.skipif(not ships_objects(), reason="this platform has no ELF objects")


def shipped(library, instructions=None):
    return object_files.find_shipped(library, instructions or available()[-1])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("instructions", available())
def test_every_program_of_a_library_is_placed(library, instructions):
    addresses = place_object(shipped(library, compiled_set(library, instructions)))
    assert {program.symbol for program in LIBRARIES[library]} <= set(addresses)
    assert all(address > 0 for address in addresses.values())


def test_llvm_places_the_same_programs():
    """As on platforms for which no object files ship."""
    address = native._place_by_llvm(shipped("codec"))[RANS_GET_RUN.symbol]
    arguments = (
        np.zeros(4, np.uint16), np.zeros(1, np.uint32), np.zeros(2**20, np.uint32),
        np.zeros(6, np.int64), 0, 0, np.zeros(3, np.int16),
    )  # fmt: skip
    by_llvm = native.Native(address, RANS_GET_RUN)
    by_us = native.Native(place_object(shipped("codec"))[RANS_GET_RUN.symbol], RANS_GET_RUN)
    assert by_llvm(*arguments) == by_us(*arguments) == 3


def test_code_in_memory_can_no_longer_be_changed():
    """The system ends a process that tries, so this one asks which rights the memory has."""
    address = next(iter(place_object(shipped("layers")).values()))
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights = line.split()[:2]
            first, last = (int(end, 16) for end in span.split("-"))
            if first <= address < last:
                assert rights == "r-xp"
                return
    pytest.fail("the memory is nowhere")


def test_functions_of_the_c_library_are_found():
    address = elf_object._library_function("log2")
    log2 = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(address)
    assert log2(8.0) == math.log2(8.0)
    with pytest.raises(ValueError, match="no library has the function no_such_function"):
        elf_object._library_function("no_such_function")


def changed(code, offset, layout, value):
    changed = bytearray(code)
    struct.pack_into(layout, changed, offset, value)
    return bytes(changed)


def test_what_is_no_object_file_is_refused():
    with pytest.raises(ValueError, match="not an ELF object"):
        place_object(bytes(100))


def section_header(code, test):
    """The offset of the first header of a section that passes a test."""
    first, count = struct.unpack_from("<Q", code, 40)[0], struct.unpack_from("<H", code, 60)[0]
    for offset in range(first, first + 64 * count, 64):
        kind, flags = struct.unpack_from("<IQ", code[offset + 4 : offset + 8] + code[offset + 8 :])
        if test(kind, flags, struct.unpack_from("<Q", code, offset + 32)[0]):
            return offset
    raise AssertionError


def test_a_section_that_is_written_to_is_refused():
    code = shipped("codec")
    offset = section_header(code, lambda kind, flags, size: flags & 2 and size)
    with pytest.raises(ValueError, match="written to"):
        place_object(changed(code, offset + 8, "<Q", 3))


def test_another_relocation_is_refused():
    code = shipped("codec")
    offset = section_header(code, lambda kind, flags, size: kind == 4)
    (place,) = struct.unpack_from("<Q", code, offset + 24)
    with pytest.raises(ValueError, match="relocations of type 2"):
        place_object(changed(code, place + 8, "<I", 2))
