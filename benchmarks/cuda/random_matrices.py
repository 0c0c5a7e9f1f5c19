"""Random compressed matrices, made without a codec."""

import numpy as np

from rbe_cli.weights.panel_layout import PanelLayout, panel_shape
from rbe_cli.weights.trellis_code import TrellisBlock, taps
from rbe_cli.weights.trellis_panels import TrellisPanels
from rbe_cli.weights.uniform_panels import UniformPanels

_STATES = 8  # of the trellis


def random_panels(
    rng: np.random.Generator, shape: tuple[int, int], layout: PanelLayout
) -> UniformPanels:
    """Return a matrix `[K, N]` of random bytes in a layout."""
    values = rng.integers(0, 256, panel_shape(shape, layout.bits), np.uint8).reshape(-1)
    ones = np.ones(shape[0], np.float32)
    return UniformPanels(values, layout, ones, _steps(shape), shape)


def random_trellis(rng: np.random.Generator, shape: tuple[int, int]) -> TrellisPanels:
    """Return a matrix `[K, N]` of the integers -4 to 3 along a random path of the trellis."""
    code = taps(_STATES)
    reach = max(*code.parity, *code.offset)
    bits = np.pad(rng.integers(0, 2, shape, np.int16), ((0, 0), (reach, 0)))  # [K, reach + N]

    def earlier(*counts: int) -> np.ndarray:
        """Return the sum modulo 2 of the bits so many columns before."""
        parts = [bits[:, reach - count : bits.shape[1] - count] for count in counts]
        return np.bitwise_xor.reduce(parts)

    lowest, offset = earlier(0, *code.parity), earlier(*code.offset)
    integers = 2 * lowest + offset - 4 * rng.integers(0, 2, shape, np.int16)
    order, steps = np.arange(shape[1]), _steps(shape)
    block = TrellisBlock(slice(0, shape[1]), order, integers.astype(np.int16), steps)
    return TrellisPanels.from_blocks(shape, [block], _STATES)


def _steps(shape: tuple[int, int]) -> np.ndarray:
    """Return the columns' steps, which keep outputs about as large as inputs."""
    return np.full(shape[1], 1 / np.sqrt(shape[0]), np.float32)
