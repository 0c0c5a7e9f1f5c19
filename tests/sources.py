"""Matrices to encode, with costs that are in memory."""

import numpy as np

from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.compression.encoding import Source


def source_of(weights, cost):
    return Source(weights.astype(np.float32), cost.unit_step, lambda: cost, QuantiserOptions())
