"""Compresses small checkpoints in tests, and reads what that gives."""

import dataclasses

import numpy as np

from rbe_cli.compression.pipeline import CompressOptions, compress
from rbe_cli.compression.settings import Settings
from rbe_cli.container.reader import Container
from rbe_cli.jobs.workers import workers
from rbe_cli.progress import no_progress

FOUR_BITS = Settings(4.0)


def run(checkpoint, path, settings=FOUR_BITS, *, threads=2, progress=no_progress, **options):
    """Compress a checkpoint; its result."""
    options = {"calib_samples": 16} | options
    with workers(threads) as pool:
        return compress(checkpoint, path, CompressOptions(settings, **options), pool, progress)


def decode(path):
    """Every tensor of a file, as a checkpoint has them."""
    tensors = {}
    with Container.open(path) as container:
        container.verify()
        for name, stored in container.tensors.items():
            tensors[name] = stored.decode()
    return tensors


def relative(change, original):
    """Relative Frobenius error in float64."""
    return np.linalg.norm(change.astype(np.float64)) / np.linalg.norm(original.astype(np.float64))


def by_name(result):
    """Tensor name -> its report."""
    return {tensor.name: tensor for tensor in result.tensors}


def with_tensors(checkpoint, **changes):
    """The checkpoint with other tensors, their names' dots written as double underscores."""
    renamed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    assert renamed.keys() <= checkpoint.tensors.keys()
    return dataclasses.replace(checkpoint, tensors=dict(checkpoint.tensors) | renamed)
