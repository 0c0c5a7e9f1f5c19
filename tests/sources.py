"""Matrices to encode, with costs that are in memory."""

import numpy as np

from rbe_cli.codec.trellis import QuantiserOptions
from rbe_cli.tasks.encoding import Source


def source_of(weights, cost):
    return Source(weights.astype(np.float32), cost.unit_step, lambda: cost, QuantiserOptions())
