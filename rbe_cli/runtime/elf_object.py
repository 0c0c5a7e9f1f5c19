"""Places the machine code of an object file in memory, on Linux.

LLVM could do it, but its library alone takes 170 MB of an installation (docs/dependencies.md). The
object files of this package (build.py) need little: LLVM's large code model refers to almost
everything by its absolute address of 64 bits, and nothing in them is writable. The layout of a file
is that of the ELF-64 object file format (System V ABI, chapters 4 and 5).
"""

import ctypes
import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from rbe_cli.runtime.elf_relocations import AARCH64, JUMP_BYTES, arm_jump, relocate

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_SYMBOL_TABLE, _RELOCATIONS = 2, 4  # types of sections
_UNWIND = b".eh_frame"  # a section that nothing reads here, as programs raise nothing
_WRITABLE, _IN_MEMORY = 1, 2  # flags of sections
_UNDEFINED = 0  # the section of a symbol
_FUNCTION = 2  # the type of a symbol
_LIBRARIES = (None, "libm.so.6")  # where functions of the C library are: what is loaded comes first


class _Section(NamedTuple):
    """A section's header, and where its bytes are placed, from the beginning of the memory."""

    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    place: int | None


class _Symbol(NamedTuple):
    """A name, and where in a section it is."""

    name: str
    kind: int
    section: int
    value: int

    @property
    def is_outside(self) -> bool:
        """Return whether it is a function of the C library."""
        return self.section == _UNDEFINED and bool(self.name)


def place_object(code: bytes) -> dict[str, int]:
    """Return the addresses of an object file's functions, by their names.

    The memory is never given back, because threads may run in it until the process ends.

    Raises:
        ValueError: the file needs more than this loader can do.
        OSError: the system gives no memory that code may run in.
    """
    sections = _sections(code)
    symbols = _symbols(code, sections)
    image = _image(code, sections)
    outside = {own.name: _library_function(own.name) for own in symbols if own.is_outside}
    size = len(image) + JUMP_BYTES * len(outside)
    memory = _reserve(size)
    machine = _HEADER.unpack_from(code)[2]
    if machine == AARCH64:  # whose calls reach 128 MB: they go by way of jumps after the code
        for name, address in outside.items():
            outside[name] = memory + len(image)
            image += arm_jump(address)
    for place, kind, symbol, addend in _relocations(code, sections):
        address = _address(symbols[symbol], sections, outside, memory) + addend
        relocate(machine, image, place, kind, address, memory)
    ctypes.memmove(memory, bytes(image), len(image))
    _protect(memory, size)
    if machine == AARCH64:
        _forget_instructions(memory, size)
    return {
        symbol.name: _address(symbol, sections, outside, memory)
        for symbol in symbols
        if symbol.kind == _FUNCTION
    }


def _sections(code: bytes) -> list[_Section]:
    """Return all sections; those that the code needs have a place, one after the other."""
    header = _HEADER.unpack_from(code)
    if not header[0].startswith(_MAGIC):
        raise ValueError("not an ELF object file of 64 bits")
    first, count, names = header[6], header[12], header[13]
    headers = [_SECTION.unpack_from(code, first + i * _SECTION.size) for i in range(count)]
    found, end = [], 0
    for name, kind, flags, _, offset, size, link, info, alignment, _ in headers:
        place = None
        if flags & _IN_MEMORY and size and not _is_named(code, headers[names][4] + name, _UNWIND):
            if flags & _WRITABLE:
                raise ValueError("an object file has a section that is written to")
            place = -(-end // max(alignment, 1)) * max(alignment, 1)
            end = place + size
        found.append(_Section(kind, flags, offset, size, link, info, place))
    return found


def _is_named(code: bytes, place: int, name: bytes) -> bool:
    return code.startswith(name + b"\0", place)


def _image(code: bytes, sections: list[_Section]) -> bytearray:
    """Return the bytes of all sections that have a place."""
    placed = [(own.place, own) for own in sections if own.place is not None]
    image = bytearray(max(place + own.size for place, own in placed))
    for place, own in placed:
        image[place : place + own.size] = code[own.offset : own.offset + own.size]
    return image + bytes(-len(image) % JUMP_BYTES)


def _symbols(code: bytes, sections: list[_Section]) -> list[_Symbol]:
    (table,) = (own for own in sections if own.kind == _SYMBOL_TABLE)
    names = sections[table.link].offset
    found = []
    for start in range(table.offset, table.offset + table.size, _SYMBOL.size):
        name, about, _, section, value, _ = _SYMBOL.unpack_from(code, start)
        text = code[names + name : code.index(b"\0", names + name)].decode()
        found.append(_Symbol(text, about % 16, section, value))
    return found


def _relocations(code: bytes, sections: list[_Section]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (place of an address in the memory, type, its symbol, what is added to it)."""
    for own in sections:
        if own.kind != _RELOCATIONS or (place := sections[own.info].place) is None:
            continue
        for start in range(own.offset, own.offset + own.size, _RELOCATION.size):
            position, about, addend = _RELOCATION.unpack_from(code, start)
            yield place + position, about % 2**32, about >> 32, addend


def _address(
    symbol: _Symbol, sections: list[_Section], outside: dict[str, int], memory: int
) -> int:
    """Return the address of a symbol.

    Raises:
        ValueError: it is in no section that has been placed, nor in a library.
    """
    if symbol.is_outside:
        return outside[symbol.name]
    place = sections[symbol.section].place if symbol.section < len(sections) else None
    if place is None:
        raise ValueError(f"an object file has {symbol.name!r} in no section")
    return memory + place + symbol.value


def _library_function(name: str) -> int:
    """Return the address of a function of the C library."""
    for library in _LIBRARIES:
        try:
            function = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    raise ValueError(f"no library has the function {name}")


def _reserve(size: int) -> int:
    """Return the address of new memory, which may be written to."""
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address: int | None = system.mmap(None, size, protection, flags, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no memory for compiled programs")
    return address


def _protect(address: int, size: int) -> None:
    """Let code run in the memory, which can no longer be written to."""
    system = ctypes.CDLL(None, use_errno=True)
    system.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if system.mprotect(address, size, mmap.PROT_READ | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), "the system lets no compiled programs run from memory")


def _forget_instructions(address: int, size: int) -> None:
    """Empty the cache of instructions, which does not see what was written on 64-bit Arm.

    Linux does it for new memory that code may run in; the compiler's library does it by contract.
    """
    with suppress(OSError):
        clear = getattr(ctypes.CDLL("libgcc_s.so.1"), "__clear_cache")
        clear(ctypes.c_void_p(address), ctypes.c_void_p(address + size))
