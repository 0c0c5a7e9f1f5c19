"""Second moments of a model's activations and gradients: what an error in a weight costs.

The cost of a change of the weights is, to second order, its KL divergence from the model as
it is, whose curvature is the Fisher matrix: the second moment of the gradient of -log p(y),
y sampled from the model's own predictions (Martens 2014, section 9.2). By Kronecker factors,
a linear layer's part of it is the moment of its inputs times that of the gradient with respect
to its outputs.

The model is gone through layer by layer, forward and then backward, so that besides the weights
no more than one layer's moments are in memory; between the layers, activations wait in the
work folder.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.errors import CheckpointError
from rbe_cli.evaluation.batching import Tokens, batches, logit_chunks
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.loss import log_softmax
from rbe_cli.nn.tape import SavedTensors
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float64, Floating, Int64
from rbe_cli.text.sampling import sample_rows

Float32 = NDArray[np.float32]
_STAGE = "measuring layers"
_SMALLEST, _LARGEST = 1e-12, 1e12  # between which the squares of a batch are within float32
# How much every logit's squared error, mean over the vocabulary, counts beside the predictions'
# divergence. Where predictions are certain, it alone says what logits must not do.
_LOGIT_WEIGHT = 1e-3


@dataclass(frozen=True)
class Moments:
    """Of a part of a model: means over the tokens that were seen.

    Attributes:
        inputs: by weight name, E[x x^T] of the linear layer's input, float32 `[K, K]`. That of
            an embedding is the moment of the gradient with respect to what it gives; a tied
            one has the sum of both of its uses.
        outputs: by weight name, for each column block: E[g g^T] of the gradient with respect
            to the layer's output, float32 `[B, B]`. Of tokens, how often each comes, about
            E[p (1 - p)] of its predicted probability, and of positions, float64 `[B]`.
        squares: by name of a bias or LayerNorm parameter, E[g^2] of its gradient, float64 `[n]`.
    """

    inputs: dict[str, Float32] = field(default_factory=dict)
    outputs: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    squares: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def collect(
    model: Gpt2,
    sequences: Sequence[Tokens],
    seed: int,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> Iterator[tuple[str, Moments]]:
    """The moments of a dense model over token sequences, layer by layer (`h.11`, `h.10`, ...),
    then of the embeddings and the head (`embeddings`).

    A layer that an earlier run was done with is left out: one is done with when the next is
    asked for.

    Args:
        model: float32.
        sequences: at least one.
        seed: of the tokens that are sampled from the predictions.
        workers: run batches side by side.
        folder: holds activations, and what was finished.
        progress: told after each layer, of both directions.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    groups = list(batches(sequences))
    tokens, layers = sum(group.size for group in groups), len(model.blocks)
    total = 2 * layers + 1
    progress(_STAGE, 0, total)

    def states(layer: int) -> Iterator[Float32]:
        """The layer's input, batch by batch; after the last layer, its output."""
        return iter(folder.require(f"state-{layer}").values())

    folder.keep("state-0", lambda: _numbered(model.embed(group) for group in groups))
    for layer, block in enumerate(model.blocks):
        if folder.load(f"state-{layer + 1}") is None:
            outputs = workers.map(_forward, repeat(block), states(layer))
            folder.save(f"state-{layer + 1}", _numbered(outputs))
        progress(_STAGE, layer + 1, total)

    if folder.load(f"gradient-{layers}") is None:
        seeds = np.random.SeedSequence(seed).spawn(len(groups))
        done = workers.map(_head, repeat(model.ln_f), repeat(model.head), states(layers), seeds)
        gradients, sums = _add_up(done)
        folder.save("head", sums.to_arrays())
        folder.save(f"gradient-{layers}", gradients)
    progress(_STAGE, layers + 1, total)
    for layer in reversed(range(layers)):
        if folder.load(f"gradient-{layer}") is None:
            before = folder.require(f"gradient-{layer + 1}").values()
            done = workers.map(_backward, repeat(model.blocks[layer]), states(layer), before)
            gradients, sums = _add_up(done)
            yield f"h.{layer}", sums.means(tokens)
            folder.save(f"gradient-{layer}", gradients)
        progress(_STAGE, total - layer, total)
    sums = _Sums.from_arrays(folder.require("head"))
    for gradient in folder.require("gradient-0").values():
        rows = gradient.reshape(-1, gradient.shape[-1])  # [tokens, d]
        sums.add("input", "wpe.weight", products(rows))
    yield "embeddings", _of_embeddings(model, sums.means(tokens))
    for layer in range(layers + 1):
        folder.discard(f"state-{layer}")
        folder.discard(f"gradient-{layer}")


def _of_embeddings(model: Gpt2, measured: Moments) -> Moments:
    """From the moments of the head and of what is embedded, those of the matrices.

    A token's embedding counts as often as the token comes, about as often as it is predicted.
    Positions count alike.
    """
    embedded, head = measured.inputs["wpe.weight"], model.head.name
    inputs = dict.fromkeys(("wte.weight", "wpe.weight"), embedded)
    inputs[head] = measured.inputs[head] + embedded if head in inputs else measured.inputs[head]
    positions = model.config.n_positions
    importance = dict.fromkeys(inputs, measured.outputs[head][0])
    importance["wpe.weight"] = np.full(positions, 1 / positions)
    outputs = {
        name: [diagonal[columns] for columns in column_blocks(len(diagonal))]
        for name, diagonal in importance.items()
    }
    return Moments(inputs, outputs, measured.squares)


class _Sums:
    """Sums of products over tokens, by (kind, name, column block)."""

    def __init__(self) -> None:
        self._products: dict[tuple[str, str, int], NDArray[Any]] = {}

    def linear(self, layer: Linear, x: Floating, grad: Floating) -> None:
        """Take in what a backward pass shows (`GradientObserver`)."""
        self.add("input", layer.name, products(x))
        for block, columns in enumerate(column_blocks(grad.shape[1])):
            self.add("output", layer.name, products(grad[:, columns]), block)
        self._add_bias(layer.name, grad)

    def layer_norm(
        self,
        layer: LayerNorm,
        x: Floating,
        statistics: Float64,
        grad: Floating,
        sums: tuple[Floating, Floating],
    ) -> None:
        """Of a LayerNorm."""
        normalised = ((x - statistics[:, :1]) * statistics[:, 1:]).astype(x.dtype)
        squares = _column_squares(normalised * grad)
        self.add("square", layer.name, squares)
        self._add_bias(layer.name, grad)

    def embedding(self, layer: Embedding, indices: Int64, grad: Floating) -> None:
        """Of an embedding, nothing: it is taken from the head."""

    def _add_bias(self, name: str, grad: Floating) -> None:
        squares = _column_squares(grad)
        self.add("square", f"{name.removesuffix('weight')}bias", squares)

    def add(self, kind: str, name: str, product: Any, block: int = 0) -> None:
        """Add what is an `input`, `output` or `square` of `Moments`."""
        key = kind, name, block
        if key not in self._products:
            self._products[key] = product
        elif self._products[key].dtype == product.dtype:
            self._products[key] += product
        else:
            self._products[key] = self._products[key] + product

    def merge(self, other: "_Sums") -> None:
        """Take in what another has summed."""
        for (kind, name, block), product in other._products.items():
            self.add(kind, name, product, block)

    def means(self, tokens: int) -> Moments:
        """The sums over the number of tokens.

        Raises:
            CheckpointError: one is not finite.
        """
        moments = Moments()
        for (kind, name, _), total in self._products.items():
            if not np.isfinite(total).all():
                raise CheckpointError(f"the {kind} of {name} overflows")
            total /= total.dtype.type(tokens)
            if kind == "input":
                moments.inputs[name] = total
            elif kind == "output":
                moments.outputs.setdefault(name, []).append(total)
            else:
                moments.squares[name] = total
        return moments

    def to_arrays(self) -> Arrays:
        """As a work folder keeps it."""
        return {f"{kind} {name} {block}": s for (kind, name, block), s in self._products.items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "_Sums":
        """The inverse of `to_arrays`."""
        sums = cls()
        for key, product in arrays.items():
            kind, name, block = key.split(" ")
            sums.add(kind, name, product, int(block))
        return sums


def products(x: Floating, y: Floating | None = None) -> Floating:
    """The sum of x y^T over rows `[K]` and `[N]`; float64 where float32 might not hold it.

    Args:
        x: `[rows, K]`.
        y: `[rows, N]`; None for x itself.
    """
    y = x if y is None else y
    for rows in (x, y):
        largest = float(np.abs(rows).max(initial=0.0))
        if largest and not _SMALLEST < largest < _LARGEST:
            return x.astype(np.float64).T @ y.astype(np.float64)
    return x.T @ y


def _column_squares(rows: Floating) -> Float64:
    """The sum of squares of each column, `[n]`, in float64."""
    return np.einsum("tn,tn->n", rows, rows, dtype=np.float64)


def _forward(block: TransformerBlock, x: Float32) -> Float32:
    """A batch through a block, `[batch, seq, d]`."""
    return block(x)


def _head(
    ln_f: LayerNorm, head: Linear, x: Float32, seed: np.random.SeedSequence
) -> tuple[Float32, _Sums]:
    """The gradient of -log p(y) with respect to the last block's output, and the head's sums."""
    rng, sums = np.random.default_rng(seed), _Sums()
    states = x.reshape(-1, x.shape[-1])  # [tokens, d]
    out = np.empty_like(states)
    for part in logit_chunks(len(states), head.weight.shape[1]):
        final = ln_f(states[part])
        logits = head(final)
        gradient = np.exp(log_softmax(logits))  # so far the probabilities
        sums.add("input", head.name, products(final))
        variance = np.einsum("tv,tv->v", gradient, 1 - gradient, dtype=np.float64)
        variance += len(gradient) * _LOGIT_WEIGHT / gradient.shape[1]
        sums.add("output", head.name, variance)
        positions = np.arange(len(gradient))
        gradient[positions, sample_rows(logits, rng)] -= 1
        # A random difference of two logits: its moment is that of all logits but their mean.
        pair = rng.integers(0, gradient.shape[1], (2, len(gradient)))
        gradient[positions, pair[0]] += math.sqrt(_LOGIT_WEIGHT / 2)
        gradient[positions, pair[1]] -= math.sqrt(_LOGIT_WEIGHT / 2)
        out[part] = ln_f.backward(states[part], head.backward(final, gradient), sums)
    return out.reshape(x.shape), sums


def _backward(block: TransformerBlock, x: Float32, gradient: Float32) -> tuple[Float32, _Sums]:
    """The gradient with respect to a block's input x, and the sums of its layers."""
    sums = _Sums()
    return block.backward(SavedTensors(x), gradient, sums), sums


def _add_up(done: Iterator[tuple[Float32, _Sums]]) -> tuple[Arrays, _Sums]:
    """All batches' gradients, and their sums; in order, so that they are the same every time."""
    total, gradients = _Sums(), []
    for gradient, sums in done:
        gradients.append(gradient)
        total.merge(sums)
    return _numbered(gradients), total


def _numbered(arrays: Iterable[Float32]) -> Arrays:
    return {str(number): array for number, array in enumerate(arrays)}
