"""Small random GPT-2s for tests, dense and as integers in panels."""

import numpy as np
from trellis_integers import blocks_of

from rbe_cli.codec.stream_rotation import StreamRotation, folded
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import (
    ROTATION,
    has_stream_axis,
    is_embedding,
    is_matrix,
    reads_stream,
    stored_shapes,
    tensor_shapes,
)
from rbe_cli.weights.trellis_panels import TrellisPanels


def small_config(**changes):
    """Odd sizes throughout: nothing is a multiple of a panel's 64 columns or 8 rows."""
    sizes = {
        "vocab_size": 211,
        "n_positions": 96,
        "n_embd": 42,
        "n_layer": 3,
        "n_head": 3,
        "n_inner": 77,
    }
    return Gpt2Config(**sizes | changes)


def random_tensors(config, seed=0):
    """Tensors of a checkpoint, large enough that every part matters for the logits."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        spread = 0.15 if is_matrix(name) else 0.3
        tensors[name] = rng.normal(0.0, spread, shape).astype(np.float32)
        if ".ln_" in f".{name}" and name.endswith("weight"):
            tensors[name] += 1
    return tensors


def as_panels(tensors, largest):
    """Quantise all matrices to integers of a trellis up to `largest`.

    Returns what `Gpt2` takes (matrices in panels) and the decoded tensors of a checkpoint.
    """
    panels, decoded = {}, {}
    for name, tensor in tensors.items():
        panels[name] = decoded[name] = tensor
        if is_matrix(name):
            matrix = tensor.T if is_embedding(name) else tensor  # [K, N]
            steps = np.abs(matrix).max(axis=0) / largest  # [N]
            blocks = blocks_of(matrix / steps, steps, largest)
            panels[name] = TrellisPanels.from_blocks(matrix.shape, blocks, 8)
            weights = panels[name].dense()
            decoded[name] = weights.T if is_embedding(name) else weights
    return panels, decoded


def correlated_tensors(config, seed=0):
    """Weights whose vectors have most of their power in a few directions, none of them an axis."""
    rng, d = np.random.default_rng(seed), config.n_embd
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spread = (axes * np.exp2(-np.linspace(0, 6, d))) @ axes.T * 4
    tensors = random_tensors(config, seed)
    for name, own in tensors.items():
        if reads_stream(name):
            tensors[name] = (spread @ own).astype(np.float32)
        elif has_stream_axis(name) and own.ndim == 2:
            tensors[name] = (own @ spread).astype(np.float32)
    return tensors


def folded_tensors(tensors):
    """The same model, with the LayerNorms of its layers folded into the matrices behind them."""
    return {name: folded(name, tensors) for name in tensors}


def rotated_tensors(tensors, config, seed=0):
    """The same model with a randomly rotated residual stream, and its rotation."""
    shape = stored_shapes(config)[ROTATION]
    coded = np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)
    rotation = StreamRotation.of_coded(coded)
    found = {name: rotation.rotated(name, own) for name, own in folded_tensors(tensors).items()}
    return {**found, ROTATION: coded}, rotation


def float64(tensors):
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def relative_error(actual, expected):
    """Largest difference over the largest expected value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()
