"""Store a weight matrix with a fixed number of bits per weight, in the layout used in memory.

weight[k, n] = level[k, n] * row step * column step. These are the bytes of a matrix
(codec `fixed`, version 2, little-endian). Their number tells the bits per weight: 2, 4 or 8.

    values         uint8, codes in the panels of weights/panel_layout.py; their levels are EVEN_2
                   for 2 bits, BENT_4 for 4, INT_8 for 8
    row steps      int8 [K]    2 ** (level / 8)
    column steps   int8 [N]    unit * 2 ** (level / 8)
    unit           float32
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import log2
from rbe_cli.errors import PayloadError, UsageError
from rbe_cli.weights import panel_layout
from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, INT_8, PanelLayout

Float32 = NDArray[np.float32]
StepLevels = NDArray[np.int8]

LAYOUTS: dict[int, PanelLayout] = {2: EVEN_2, 4: BENT_4, 8: INT_8}
_LEVELS_PER_OCTAVE = 8
_STEPS = np.exp2(np.arange(-128, 128) / _LEVELS_PER_OCTAVE).astype(np.float32)


def steps(levels: StepLevels) -> Float32:
    """Return 2 ** (level / 8), float32, for int8 levels."""
    return _STEPS[levels.astype(np.int64) + 128]


@dataclass(frozen=True, eq=False)
class FixedMatrix:
    """A matrix `[K inputs, N outputs]` that is encoded with the codec `fixed`.

    Attributes:
        shape: (K, N).
        bits: bits per weight: 2, 4 or 8.
        values: the panels of codes.
        row_levels: int8 `[K]`, the levels of the rows' steps.
        column_levels: int8 `[N]`, the levels of the columns' steps over `unit`.
        unit: the column step of level 0.
    """

    shape: tuple[int, int]
    bits: int
    values: panel_layout.Values
    row_levels: StepLevels
    column_levels: StepLevels
    unit: float

    @property
    def layout(self) -> PanelLayout:
        """Return the layout of the panels."""
        return LAYOUTS[self.bits]

    @property
    def row_steps(self) -> Float32:
        """Return the steps of the rows, float32 `[K]`."""
        return steps(self.row_levels)

    @property
    def column_steps(self) -> Float32:
        """Return the steps of the columns, float32 `[N]`."""
        return np.float32(self.unit) * steps(self.column_levels)

    def to_bytes(self) -> bytes:
        """Return the bytes of the matrix, in the layout that the module describes."""
        parts = self.values, self.row_levels, self.column_levels, np.array(self.unit, "<f4")
        return b"".join(part.tobytes() for part in parts)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, shape: tuple[int, int]) -> "FixedMatrix":
        """Parse the bytes that `to_bytes` writes. Values and levels stay views of `data`.

        Raises:
            PayloadError: the bytes are not a matrix of this shape.
        """
        rows, columns = shape
        by_size = {payload_bytes(shape, bits): bits for bits in LAYOUTS}
        bits = by_size.get(len(data))
        if bits is None:
            raise PayloadError(f"{len(data)} bytes do not hold a fixed-rate matrix {shape}")
        stored = panel_layout.panel_shape(shape, bits)
        count = int(np.prod(stored))
        matrix = cls(
            shape,
            bits,
            np.frombuffer(data, np.uint8, count).reshape(stored),
            np.frombuffer(data, np.int8, rows, count),
            np.frombuffer(data, np.int8, columns, count + rows),
            float(np.frombuffer(data, "<f4", 1, count + rows + columns)[0]),
        )
        _check_steps(matrix)
        return matrix

    def with_steps(self, row_steps: Float32, column_steps: Float32) -> "FixedMatrix":
        """Return the same codes with other steps, float32 `[K]` and `[N]`, rounded to levels.

        Raises:
            UsageError: the steps span a larger range than the levels.
        """
        unit = float(np.float32(column_steps.max()))
        levels = []
        for own in (row_steps, column_steps / unit):
            rounded = np.rint(_LEVELS_PER_OCTAVE * log2(own))
            if rounded.min() < -128 or rounded.max() > 127:
                raise UsageError("the steps span a larger range than the codec fixed can store")
            levels.append(rounded.astype(np.int8))
        return replace(self, row_levels=levels[0], column_levels=levels[1], unit=unit)

    def decode(self) -> Float32:
        """Return the whole matrix, float32 `[K, N]`."""
        levels = self.layout.levels[panel_layout.unpack(self.values, self.shape)]
        return levels * self.row_steps[:, None] * self.column_steps


def payload_bytes(shape: tuple[int, int], bits: int) -> int:
    """Return the bytes of an encoded matrix `[K, N]`."""
    return int(np.prod(panel_layout.panel_shape(shape, bits))) + sum(shape) + 4


def _check_steps(matrix: FixedMatrix) -> None:
    """Raise `PayloadError` if a step is not positive, or if a weight would not be finite."""
    if not (np.isfinite(matrix.unit) and matrix.unit > 0):
        raise PayloadError(f"a matrix's steps have the unit {matrix.unit}")
    with np.errstate(over="ignore"):
        # In the order of `decode`, so that no weight is rounded to more than this.
        largest = np.abs(matrix.layout.levels).max() * matrix.row_steps.max()
        largest *= matrix.column_steps.max()
    if not np.isfinite(largest):
        raise PayloadError("a matrix's steps are too large")
