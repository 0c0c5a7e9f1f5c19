"""Changes of bytes whose structure is not known."""

from collections.abc import Callable

from fuzz.draws import Draws, wrapped

_LONGEST = 64  # bytes that are inserted or removed


def mutated_bytes(draws: Draws, data: bytes) -> bytes:
    """Return the bytes after one change; empty ones become a few."""
    if not data:
        return draws.some_bytes(1 + draws.below(8))
    return draws.one_of(_CHANGES)(draws, data)


def _flip(draws: Draws, data: bytes) -> bytes:
    at = draws.below(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draws.below(8)]) + data[at + 1 :]


def _set(draws: Draws, data: bytes) -> bytes:
    at = draws.below(len(data))
    return data[:at] + bytes([draws.one_of((0, 1, 127, 128, 254, 255))]) + data[at + 1 :]


def _number(draws: Draws, data: bytes) -> bytes:
    size = 1 << draws.below(4)
    at = draws.below(max(1, len(data) - size + 1))
    if draws.below(2):
        at -= at % size
    return data[:at] + wrapped(draws.integer(), size) + data[at + size :]


def _remove(draws: Draws, data: bytes) -> bytes:
    at = draws.below(len(data))
    return data[:at] + data[at + 1 + draws.below(_LONGEST) :]


def _insert(draws: Draws, data: bytes) -> bytes:
    at = draws.below(len(data) + 1)
    return data[:at] + draws.some_bytes(1 + draws.below(8)) + data[at:]


def _repeat(draws: Draws, data: bytes) -> bytes:
    at, size = draws.below(len(data)), 1 + draws.below(_LONGEST)
    return data[: at + size] + data[at : at + size] + data[at + size :]


def _truncate(draws: Draws, data: bytes) -> bytes:
    return data[: draws.below(len(data))]


def _extend(draws: Draws, data: bytes) -> bytes:
    return data + (bytes(1 + draws.below(_LONGEST)) if draws.below(2) else draws.some_bytes(4))


def _fill(draws: Draws, data: bytes) -> bytes:
    at, size = draws.below(len(data)), 1 + draws.below(_LONGEST)
    size = min(size, len(data) - at)
    return data[:at] + draws.one_of((b"\0", b"\xff", b"\x80", b"\x7f")) * size + data[at + size :]


def _exchange(draws: Draws, data: bytes) -> bytes:
    size = 1 + draws.below(_LONGEST)
    one, other = sorted((draws.below(len(data)), draws.below(len(data))))
    size = min(size, other - one, len(data) - other)
    first, second = data[one : one + size], data[other : other + size]
    return data[:one] + second + data[one + size : other] + first + data[other + size :]


Change = Callable[[Draws, bytes], bytes]
_CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _flip, _set, _number, _number, _remove, _insert, _repeat),
    *(_truncate, _extend, _fill, _exchange),
)
