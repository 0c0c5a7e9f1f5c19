"""Matrices in panels that are random in their codes, steps and padding."""

import numpy as np

from rbe_cli.codec.panels import panel_shape
from rbe_cli.kernels.panel import PanelMatrix


def random_matrix(rng, rows, columns, layout):
    """A matrix `[rows, columns]` of any layout."""
    values = rng.integers(0, 256, panel_shape((rows, columns), layout.bits), np.uint8)
    row_steps = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    column_steps = rng.uniform(0.5, 2.0, columns).astype(np.float32)
    return PanelMatrix(values, layout, row_steps, column_steps, (rows, columns))
