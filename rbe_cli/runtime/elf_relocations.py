"""Writes addresses into the machine code of ELF object files.

What is written, and where, is in the supplements of the ELF format: for x86-64 the System V ABI's
section 4.4, for 64-bit Arm "ELF for the Arm 64-bit Architecture", section 5.7. LLVM's large code
model needs few of their relocations.
"""

import struct

X86_64, AARCH64 = 62, 183  # machines, in a file's header
_X86_ADDRESS = 1  # R_X86_64_64
_ARM_ADDRESS = 257  # R_AARCH64_ABS64
_ARM_CALLS = (282, 283)  # R_AARCH64_JUMP26, CALL26
_ARM_PARTS = {264: 0, 266: 16, 268: 32, 269: 48}  # R_AARCH64_MOVW_UABS_G0_NC to G3: first bits
_CALL_REACH = 1 << 27  # bytes, in both directions
JUMP_BYTES = 16


def relocate(
    machine: int, image: bytearray, place: int, kind: int, address: int, memory: int
) -> None:
    """Write an address into an image of code.

    Args:
        machine: of the file.
        image: what will be copied to `memory`.
        place: of the address, in the image.
        kind: the relocation's type.
        address: is written.
        memory: the image's address.

    Raises:
        ValueError: the relocation is of another type, or a call does not reach its function.
    """
    if (machine, kind) in ((X86_64, _X86_ADDRESS), (AARCH64, _ARM_ADDRESS)):
        struct.pack_into("<Q", image, place, address % 2**64)
    elif machine == AARCH64 and kind in _ARM_CALLS:
        distance = address - (memory + place)
        if not -_CALL_REACH <= distance < _CALL_REACH:
            raise ValueError("an object file calls a function that is too far away")
        _insert(image, place, distance >> 2, first=0, bits=26)
    elif machine == AARCH64 and kind in _ARM_PARTS:
        _insert(image, place, address >> _ARM_PARTS[kind], first=5, bits=16)
    else:
        raise ValueError(f"an object file has relocations of type {kind}")


def _insert(image: bytearray, place: int, value: int, first: int, bits: int) -> None:
    """Replace some bits of an instruction."""
    (instruction,) = struct.unpack_from("<I", image, place)
    mask = (1 << bits) - 1
    changed = instruction & ~(mask << first) | (value & mask) << first
    struct.pack_into("<I", image, place, changed)


def arm_jump(address: int) -> bytes:
    """Return code for 64-bit Arm that jumps to an address, however far away it is.

    `ldr x16, 8; br x16`: functions may change register 16 (Procedure Call Standard).
    """
    return struct.pack("<IIQ", 0x58000050, 0xD61F0200, address)
