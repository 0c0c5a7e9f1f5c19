"""Choose the width of each tile's integers, so that a few large ones do not widen all of it.

In memory a tile of integers takes as many bits each as its largest one (weights/trellis_layout.py).
In most tiles only a few need the last bit. The encoder makes them smaller where this costs little,
before it writes any, so that other weights make up for the errors.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.trellis import PANEL, WIDEST
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER

Float64 = NDArray[np.float64]
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
    panels = -(-columns // PANEL)
    places = PANEL * np.minimum(1, columns / PANEL - np.arange(panels))  # columns of each panel
    cost = importance / importance.mean()
    widths = np.empty((-(-rows // TILE_ROWS), panels), np.uint8)
    for tile, found in enumerate(widths):  # what a row of tiles needs stays in the cache
        own = slice(TILE_ROWS * tile, min(TILE_ROWS * (tile + 1), rows))
        sizes = _sizes(_in_panels(weights[own]), _in_panels(feedback[own]))
        most = SHARE * ERROR * len(sizes) * places
        found[:] = _least_widths(sizes, cost[own], most)
    return widths


def _sizes(weights: Float64, feedback: Float64) -> Float64:
    """Return how large the integers of a row of tiles may become, `[rows, panels, 16]`.

    Args:
        weights, feedback: as of `tile_widths`, `[rows, panels, 16]`.
    """
    power = np.einsum("ipj,ipj->ip", weights, weights)
    growth = np.sqrt(1 + feedback.sum(axis=2) / np.maximum(power, _LEAST_POWER))
    sizes = np.abs(weights)
    sizes *= growth[..., None]
    np.sqrt(feedback, out=feedback)
    feedback *= _DEVIATIONS
    return np.maximum(sizes, feedback, out=sizes)


def _least_widths(sizes: Float64, cost: Float64, most: Float64) -> NDArray[np.uint8]:
    """Return the least width of each tile whose error is at most `most` `[panels]`."""
    widths = np.full(len(most), WIDEST, np.uint8)
    beyond = np.empty_like(sizes)
    for width in range(WIDEST - 1, 0, -1):
        np.subtract(sizes, 2.0**width - 0.5, out=beyond)
        np.maximum(beyond, 0, out=beyond)
        fits = np.einsum("ipj,ipj,i->p", beyond, beyond, cost) <= most
        if not fits.any():  # a smaller width cuts off even more
            break
        widths[fits] = width
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


def _in_panels(values: NDArray[np.floating]) -> Float64:
    """Return a copy of values `[rows, B]` as `[rows, panels, 16]`, with zeros past the end."""
    rows, columns = values.shape
    padded = np.zeros((rows, -(-columns // PANEL) * PANEL))
    padded[:, :columns] = values
    return padded.reshape(rows, -1, PANEL)
