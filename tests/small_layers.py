"""A block of random weights, for tests of the layers."""

import tracemalloc

import numpy as np
from small_models import as_panels, random_tensors, small_config

from rbe_cli.nn.gpt2 import Gpt2


def random_block(kernels, largest=None, **changes):
    """One block, dense or of integers within +-`largest`, and its config."""
    config = small_config(n_layer=1, **changes)
    tensors = random_tensors(config)
    if largest is None:
        return Gpt2.from_checkpoint(config, tensors, kernels).blocks[0], config
    return Gpt2(config, as_panels(tensors, largest)[0], kernels).blocks[0], config


def random_input(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def peak_bytes(call):
    """What a call allocates at most beside what is there and what it returns."""
    call()  # whatever is made once
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        return tracemalloc.get_traced_memory()[1] - before - result.nbytes
    finally:
        tracemalloc.stop()
