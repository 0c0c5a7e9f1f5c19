"""The random numbers that tokens are drawn with.

They are those of `numpy.random.Philox`, whose import would take 10 ms of each start.
"""

_WORD = 2**64 - 1
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10


class RowRandom:
    """Draw the random numbers of one row: Philox4x64-10 (Salmon et al., 2011) of (seed, row).

    A row draws the same numbers whatever other rows run beside it.
    """

    def __init__(self, seed: int, row: int) -> None:
        """Begin with the first number; `seed` and `row` lie in [0, 2^64)."""
        self._key = seed, row
        self._counter = 0
        self._words: list[int] = []  # of the last block that were not drawn yet, the next last

    def random(self) -> float:
        """Return a number in [0, 1), a multiple of 2^-53."""
        if not self._words:
            self._counter += 1
            self._words = list(reversed(_philox(self._counter, self._key)))
        return (self._words.pop() >> 11) / 2**53


def _philox(counter: int, key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the block of four words of 64 bits that a counter and a key give."""
    a, b, c, d = (counter >> shift & _WORD for shift in (0, 64, 128, 192))
    first, second = key
    for _ in range(_ROUNDS):
        low, high = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (
            high >> 64 ^ b ^ first,
            high & _WORD,
            low >> 64 ^ d ^ second,
            low & _WORD,
        )
        first = first + _KEY_STEPS[0] & _WORD
        second = second + _KEY_STEPS[1] & _WORD
    return a, b, c, d
