"""Measure what compression costs each layer.

    python -m benchmarks.layers.layer_errors FILE.rbe SOURCE TEXT

Prints the relative errors of the outputs of a compressed model's blocks, feed-forward and
attention parts, each on the input that it has in the original, over the text's first windows.
"""

import argparse
from pathlib import Path

import numpy as np

from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.codec.stream_rotation import unrotated
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_model
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress
from rbe_cli.runtime.arrays import Floating
from rbe_cli.text.text_files import read_text_file
from rbe_cli.text.tokenizer import Tokenizer

_WINDOW, _WINDOWS = 256, 16


def errors(original: Gpt2, compressed: Gpt2, tokens: np.ndarray) -> list[tuple[float, ...]]:
    """Return the errors of each layer's block, attention and feed-forward part.

    Tokens are `[batch, n]`.
    """
    rotation = compressed.rotation

    def in_its_basis(states: Floating) -> Floating:
        """Return states of the original's stream as the compressed model has them."""
        return states if rotation is None else rotation.into(states)

    found: list[tuple[float, ...]] = []
    x = original.embed(tokens)
    for block, other in zip(original.blocks, compressed.blocks, strict=True):
        attended = block.attn(block.ln_1(x))
        middle = x + attended
        out = block(x)
        own, own_middle = in_its_basis(x), in_its_basis(middle)
        pairs = (
            (other(own), out),
            (other.attn(other.ln_1(own)), attended),
            (other.mlp(other.ln_2(own_middle)), block.mlp(block.ln_2(middle))),
        )
        found.append(tuple(_relative(unrotated(rotation, ours), known) for ours, known in pairs))
        x = out
    return found


def _relative(actual: Floating, expected: Floating) -> float:
    change = (actual - expected).astype(np.float64)
    return float(np.linalg.norm(change) / np.linalg.norm(expected.astype(np.float64)))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layers.layer_errors")
    parser.add_argument("file", type=Path)
    parser.add_argument("source")
    parser.add_argument("text", type=Path)
    arguments = parser.parse_args()
    kernels = load_kernels("fast")
    checkpoint = open_checkpoint(arguments.source)
    original = Gpt2.from_checkpoint(checkpoint.config, checkpoint.tensors, kernels)
    with Container.open(arguments.file) as container:
        loaded = load_model(container, kernels.threads, no_progress)
    compressed = Gpt2(loaded.config, loaded.weights, kernels)
    assert checkpoint.tokenizer_json is not None
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
    tokens = np.array(tokenizer.encode(read_text_file(arguments.text)))
    windows = tokens[: _WINDOW * _WINDOWS].reshape(-1, _WINDOW)
    print("| layer | block | attention | feed-forward |\n|---|---|---|---|")
    for layer, row in enumerate(errors(original, compressed, windows)):
        print(f"| {layer} | " + " | ".join(f"{value:.4f}" for value in row) + " |")


if __name__ == "__main__":
    main()
