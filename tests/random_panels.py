"""Matrices in panels: random in their codes, steps and padding, or with all codes at a limit."""

import numpy as np
from trellis_integers import blocks_of

from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, INT_8, TILE_ROWS, panel_shape
from rbe_cli.weights.trellis_panels import TrellisPanels
from rbe_cli.weights.uniform_panels import UniformPanels

LARGEST = 32765  # the largest integer of the codec
UNIFORM = {layout.name: layout for layout in (EVEN_2, BENT_4, INT_8)}
TRELLISES = {
    "8 states": (8, 127),
    "16 states": (16, 127),
    "32 states": (32, 127),
    "64 states": (64, 127),
    "wide": (8, LARGEST),
}
FORMS = [*UNIFORM, *TRELLISES]


def random_matrix(rng, rows, columns, form, scale=1.0):
    """A matrix `[rows, columns]` of one layout, or of a trellis with tiles of all widths.

    Steps are random, about 1; columns' are times `scale`.
    """
    row_steps = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    column_steps = (scale * rng.uniform(0.5, 2.0, columns)).astype(np.float32)
    if form in UNIFORM:
        shape = panel_shape((rows, columns), UNIFORM[form].bits)
        values = rng.integers(0, 256, shape, np.uint8)
        return _uniform(values, form, row_steps, column_steps)
    states, limit = TRELLISES[form]
    spread = np.exp(rng.uniform(0, np.log(limit), (-(-rows // TILE_ROWS), 1)))
    spread = np.repeat(spread, TILE_ROWS, axis=0)[:rows]
    targets = rng.normal(size=(rows, columns)) * spread / 3
    width, seed = int(rng.integers(1, columns + 1)), int(rng.integers(1000))
    blocks = blocks_of(targets, column_steps, limit, states, width, seed)
    return TrellisPanels.from_blocks(targets.shape, blocks, states).with_steps(
        row_steps, column_steps
    )


def extreme_matrix(rows, columns, form, *, largest):
    """A matrix whose integers are all about the largest, or the smallest, of their form.

    Steps are 1. A tile of a trellis has one of all widths, in turn.
    """
    row_steps, column_steps = np.ones(rows, np.float32), np.ones(columns, np.float32)
    if form in UNIFORM:
        shape = panel_shape((rows, columns), UNIFORM[form].bits)
        values = np.full(shape, 0xFF if largest else 0x00, np.uint8)
        return _uniform(values, form, row_steps, column_steps)
    states, limit = TRELLISES[form]
    ends = [limit] if form == "wide" else [2**width for width in range(1, 8)]
    tiles = np.arange(rows) // TILE_ROWS
    targets = np.array(ends)[tiles % len(ends)] * (1 if largest else -1)
    targets = np.repeat(targets[:, None], columns, axis=1)
    blocks = blocks_of(targets, column_steps, limit, states)
    return TrellisPanels.from_blocks(targets.shape, blocks, states)


def _uniform(values, form, row_steps, column_steps):
    shape = row_steps.size, column_steps.size
    return UniformPanels(values.reshape(-1), UNIFORM[form], row_steps, column_steps, shape)
