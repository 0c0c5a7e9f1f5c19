"""Matrices in panels that are random in their codes, steps and padding."""

import numpy as np

from rbe_cli.weights.panel_layout import LAYOUTS, panel_shape
from rbe_cli.weights.panel_matrix import PanelMatrix

FORMS = [layout.name for layout in LAYOUTS] + ["mixed", "wide"]


def random_matrix(rng, rows, columns, form):
    """A matrix `[rows, columns]` of one layout, or of mixed ones, or with integers past 8 bits."""
    row_steps = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    column_steps = rng.uniform(0.5, 2.0, columns).astype(np.float32)
    if form in ("mixed", "wide"):
        limit = 127 if form == "mixed" else 32639
        spread = np.exp(rng.uniform(0, np.log(limit), (rows, 1)))
        integers = np.rint(rng.normal(size=(rows, columns)) * spread / 2)
        integers = np.clip(integers, -limit, limit).astype(np.int16)
        whole = slice(0, columns), integers, column_steps
        matrix = PanelMatrix.from_blocks((rows, columns), [whole])
        return PanelMatrix(
            matrix.low, matrix.high, matrix.high_tiles, row_steps, column_steps, matrix.shape
        )
    layout = LAYOUTS[FORMS.index(form)]
    values = rng.integers(0, 256, panel_shape((rows, columns), layout.bits), np.uint8)
    return PanelMatrix.of_one_layout(values, layout, row_steps, column_steps, (rows, columns))
