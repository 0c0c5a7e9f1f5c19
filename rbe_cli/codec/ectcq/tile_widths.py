"""Choose the width of each tile's integers, so that a few large ones do not widen all of it.

In memory a tile of integers takes as many bits each as its largest one (weights/trellis_layout.py).
In most tiles only a few need the last bit. The encoder makes them smaller where this costs little,
before it writes any, so that other weights make up for the errors.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.trellis import PANEL, WIDEST
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER

TILE_ROWS = 32
SHARE = 0.05  # of the error of integers without limits, which the width of a tile may add
ERROR = 0.26  # their mean square error, in steps
_DEVIATIONS = 2.0  # of feedback that an integer holds, whatever its weight
_LEAST_POWER = 1e-30  # of a row


def tile_widths(
    weights: NDArray[np.float32], feedback: NDArray[np.float64], importance: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return the width w of each tile, uint8 `[tiles, panels]`: integers are in [-2 ** w, 2 ** w).

    The weights of a row are taken to be as much larger as feedback will make them.

    Args:
        weights: `[K, B]`, in steps, along the trellis.
        feedback: `[K, B]`, its expected power (`feedback_power`).
        importance: `[K]`, the cost of errors in each row.
    """
    rows, columns = weights.shape
    own, fed_back = _tiles(np.abs(weights)), _tiles(feedback)
    power = np.einsum("tipj,tipj->tip", own, own)
    growth = np.sqrt(1 + fed_back.sum(axis=3) / np.maximum(power, _LEAST_POWER))
    sizes = np.maximum(own * growth[..., None], _DEVIATIONS * np.sqrt(fed_back))
    cost = _tiles((importance / importance.mean())[:, None])[:, :, 0, 0]
    heights = np.minimum(TILE_ROWS, rows - TILE_ROWS * np.arange(len(own)))
    panel_widths = np.minimum(PANEL, columns - PANEL * np.arange(own.shape[2]))
    most = SHARE * ERROR * heights[:, None] * panel_widths
    widths = np.full(most.shape, WIDEST, np.uint8)
    for width in range(WIDEST - 1, 0, -1):
        beyond = np.maximum(sizes - (2.0**width - 0.5), 0)
        widths[np.einsum("tipj,tipj,ti->tp", beyond, beyond, cost) <= most] = width
    return widths


def feedback_power(
    weights: NDArray[np.float32], lower: NDArray[np.float32], mixing: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return about the mean square of the feedback that each weight will get, in steps, `[K, B]`.

    The error of a column whose weights are small is the weights.

    Args:
        weights: `[K, B]`, in steps, in the order of quantisation.
        lower: L `[K, K]`, or `[0, 0]` for the identity.
        mixing: M transposed, in steps, `[B, B]`, or `[0, 0]` for the identity.
    """
    rows, columns = weights.shape
    errors = np.minimum(np.einsum("kb,kb->b", weights, weights, dtype=np.float64) / rows, ERROR)
    from_rows = np.zeros(rows)
    if lower.size:
        from_rows = np.einsum("jk,jk->k", lower, lower, dtype=np.float64) - 1
    from_columns = np.zeros(columns)
    if mixing.size:
        from_columns = np.einsum("jk,jk,j->k", mixing, mixing, errors, dtype=np.float64)
    power = np.outer(from_rows, errors) + np.outer(1 + from_rows, from_columns)
    return np.minimum(power, MAX_INTEGER**2)


def _tiles(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return values `[K, B]` as `[tiles, 32, panels, 16]`, with zeros past the ends."""
    rows, columns = values.shape
    tiles, panels = -(-rows // TILE_ROWS), -(-columns // PANEL)
    padded = np.zeros((tiles * TILE_ROWS, panels * PANEL))
    padded[:rows, :columns] = values
    return padded.reshape(tiles, TILE_ROWS, panels, PANEL)
