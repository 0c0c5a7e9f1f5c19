"""Relocations: what is written into an instruction, and what is refused."""

import struct

import pytest

from rbe_cli.runtime.elf_relocations import AARCH64, X86_64, arm_jump, relocate

MEMORY = 0x7F12_3456_0000
MOVZ, MOVK = 0xD2800000, 0xF2800000  # of 64 bits, into register 0


def relocated(machine, kind, code, address):
    """The instruction words that `code` becomes, 16 bytes after the beginning of the memory."""
    image = bytearray(16) + struct.pack(f"<{len(code)}I", *code)
    relocate(machine, image, 16, kind, address, MEMORY)
    assert not any(image[:16])
    return struct.unpack_from(f"<{len(code)}I", image, 16)


@pytest.mark.parametrize(("machine", "kind"), [(X86_64, 1), (AARCH64, 257)])
def test_an_address_is_written_as_it_is(machine, kind):
    assert relocated(machine, kind, (0, 0), 0x1122334455667788) == (0x55667788, 0x11223344)


@pytest.mark.parametrize(("kind", "shift"), [(264, 0), (266, 16), (268, 32), (269, 48)])
def test_an_arm_instruction_takes_16_bits_of_an_address(kind, shift):
    address = 0x1234_5678_9ABC_DEF0
    for instruction in (MOVZ, MOVK | 7):
        (found,) = relocated(AARCH64, kind, (instruction | 0xFFFF << 5,), address)
        assert found == instruction | (address >> shift & 0xFFFF) << 5


@pytest.mark.parametrize("distance", [0, 4, -16, -(1 << 27), (1 << 27) - 4])
@pytest.mark.parametrize(("kind", "instruction"), [(282, 0x14000000), (283, 0x94000000)])
def test_an_arm_call_takes_the_distance_in_words(kind, instruction, distance):
    (found,) = relocated(AARCH64, kind, (instruction,), MEMORY + 16 + distance)
    assert found == instruction | distance // 4 % 2**26


@pytest.mark.parametrize("distance", [1 << 27, -(1 << 27) - 4])
def test_an_arm_call_that_does_not_reach_is_refused(distance):
    with pytest.raises(ValueError, match="too far away"):
        relocated(AARCH64, 283, (0x94000000,), MEMORY + 16 + distance)


@pytest.mark.parametrize(("machine", "kind"), [(X86_64, 2), (X86_64, 257), (AARCH64, 1), (3, 1)])
def test_other_relocations_are_refused(machine, kind):
    with pytest.raises(ValueError, match=f"relocations of type {kind}"):
        relocated(machine, kind, (0, 0), 0)


def test_a_jump_holds_its_address():
    load, branch, address = struct.unpack("<IIQ", arm_jump(MEMORY))
    # `ldr`, a literal of 64 bits, 8 bytes on; and `br`: of the same register.
    assert load == 0x58000000 | 2 << 5 | 16
    assert branch == 0xD61F0000 | 16 << 5
    assert address == MEMORY
