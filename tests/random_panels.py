"""Matrices in panels: random in their codes, steps and padding, or with all codes at a limit."""

import numpy as np

from rbe_cli.weights.panel_layout import INTEGERS, LAYOUTS, TILE_ROWS, panel_shape
from rbe_cli.weights.panel_matrix import PanelMatrix

LARGEST = 32639  # the largest integer that fits two times 8 bits
FORMS = [layout.name for layout in LAYOUTS] + ["mixed", "wide"]


def random_matrix(rng, rows, columns, form, scale=1.0):
    """A matrix `[rows, columns]` of one layout, or of mixed ones, or with integers past 8 bits.

    Steps are random, about 1; columns' are times `scale`.
    """
    row_steps = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    column_steps = (scale * rng.uniform(0.5, 2.0, columns)).astype(np.float32)
    if form in ("mixed", "wide"):
        limit = 127 if form == "mixed" else LARGEST
        spread = np.exp(rng.uniform(0, np.log(limit), (rows, 1)))
        integers = np.rint(rng.normal(size=(rows, columns)) * spread / 2)
        return _of_integers(np.clip(integers, -limit, limit), row_steps, column_steps)
    layout = LAYOUTS[FORMS.index(form)]
    values = rng.integers(0, 256, panel_shape((rows, columns), layout.bits), np.uint8)
    return PanelMatrix.of_one_layout(values, layout, row_steps, column_steps, (rows, columns))


def extreme_matrix(rows, columns, form, *, largest):
    """A matrix whose codes are all the largest, or the smallest, of their layouts. Steps are 1.

    In the mixed form, a tile has one of the layouts of integers, in turn.
    """
    steps = np.ones(rows, np.float32), np.ones(columns, np.float32)
    if form in ("mixed", "wide"):
        limits = [(-layout.offset, layout.offset - 1) for layout in INTEGERS]
        if form == "wide":
            limits = [(-(2**15), LARGEST)]
        tiles = np.arange(rows) // TILE_ROWS
        integers = np.array(limits)[tiles % len(limits), int(largest)]  # [rows]
        return _of_integers(np.repeat(integers[:, None], columns, axis=1), *steps)
    layout = LAYOUTS[FORMS.index(form)]
    shape = panel_shape((rows, columns), layout.bits)
    values = np.full(shape, 0xFF if largest else 0x00, np.uint8)
    return PanelMatrix.of_one_layout(values, layout, *steps, (rows, columns))


def _of_integers(integers, row_steps, column_steps):
    whole = slice(0, integers.shape[1]), integers.astype(np.int16), column_steps
    matrix = PanelMatrix.from_blocks(integers.shape, [whole])
    return PanelMatrix(
        matrix.low, matrix.overflow, matrix.overflow_tiles, row_steps, column_steps, matrix.shape
    )
