"""Collect second moments of a model's activations and gradients, which give the cost of errors.

The cost of a change of the weights is the KL divergence from the original model. To second order
it is given by the Fisher matrix: the second moment of the gradient of -log p(y), with y sampled
from the model's own predictions (Martens 2014, section 9.2). It is approximated by Kronecker
factors: the part of a linear layer is the moment of its inputs times the moment of the gradient
with respect to its outputs (K-FAC, Martens and Grosse 2015).

The model runs layer by layer, forward and then backward, so that only one layer's weights and
moments are in memory. Between the layers, activations are kept in the work folder until the layer's
backward pass is done.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.errors import CheckpointError
from rbe_cli.evaluation.batching import Tokens, batches, logit_chunks
from rbe_cli.jobs.ticks import Ticks
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.loss import softmax_in_place
from rbe_cli.nn.output_layer import OutputLayer
from rbe_cli.nn.tape import SavedTensors
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float64, Floating, Int64
from rbe_cli.text.sampling import draw_rows

Float32 = NDArray[np.float32]
Result = TypeVar("Result")
_STAGE = "measuring layers"
_BACKWARD_UNITS = (
    3  # about the time of a backward pass through a block, over that of a forward pass
)
HEAD_LOGITS = 1 << 24  # that the head computes at once: fewer tokens would be slower to multiply
_CACHED_ROWS = 4  # of logits that stay in the cache while they are worked on
_SQUARE_COLUMNS = 256  # whose products with those before them are computed at once
_SMALLEST, _LARGEST = 1e-12, 1e12  # the squares of a batch fit into float32 between these
# The weight of the mean squared error of the logits, relative to the divergence. Where predictions
# are certain the divergence depends on hardly any logit, and this term keeps the others in place.
_LOGIT_WEIGHT = 1e-3
# The weight of the gradient's moment in the cost of a token embedding. Errors of quantisation cost
# 1.7 to 2.1 times what this moment and the importance of tokens say (docs/design-notes.md): the
# importance is below the frequency of a token, and the gradients of tokens have their own moments.
_EMBEDDING_WEIGHT = np.float32(2.0)


@dataclass(frozen=True)
class Moments:
    """The moments of a part of a model, as means over the calibration tokens.

    Attributes:
        inputs: by weight name, E[x x^T] of the linear layer's input, float32 `[K, K]`. For an
            embedding it is the moment of the gradient with respect to the embedding's output,
            for that of tokens with a weight of its own. An embedding that is also the head has
            the sum of both.
        outputs: by weight name, for each column block: E[g g^T] of the gradient with respect
            to the layer's output, float32 `[B, B]`. For the embedding of tokens it is about
            how often each token occurs, E[p (1 - p)] of its predicted probability, and for
            positions the same number for each, float64 `[B]`.
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
    """Yield the moments of a dense model over token sequences, layer by layer.

    The names are `h.11`, `h.10`, ..., and at last `embeddings` for the embeddings and the head.
    A layer counts as finished when the caller asks for the next one. Layers that an earlier run
    finished are left out.

    Args:
        model: the original model, float32.
        sequences: the calibration text, at least one sequence.
        seed: the seed of the tokens that are sampled from the predictions.
        workers: run batches in parallel.
        folder: keeps activations and finished layers.
        progress: called after each batch, in units of a block's forward pass.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    groups = list(batches(sequences))
    tokens, layers = sum(group.size for group in groups), len(model.blocks)
    head = _head_units(model)
    each = len(groups) * (1 + _BACKWARD_UNITS)
    ticks = Ticks(progress, _STAGE, layers * each + len(groups) * head)

    def states(layer: int) -> Iterator[Float32]:
        """Return the layer's input, batch by batch. `layer = layers` gives the last output."""
        return iter(folder.require(f"state-{layer}").values())

    reached = _reached(folder, layers)
    if reached is None:
        folder.keep("state-0", lambda: _numbered(model.embed(group) for group in groups))
        for layer in range(layers):
            if folder.load(f"state-{layer + 1}") is None:
                outputs = workers.map(
                    _forward, repeat(workers.shared(model.blocks[layer])), states(layer)
                )
                folder.save(f"state-{layer + 1}", _numbered(_counted(outputs, ticks, 1)))
            ticks.reach((layer + 1) * len(groups))
        reached = layers
        seeds = np.random.SeedSequence(seed).spawn(len(groups))
        last = repeat(workers.shared(model.output_layer))
        done = workers.map(_head, last, states(layers), seeds)
        gradients, sums = _add_up(_counted(done, ticks, head))
        folder.save("head", sums.to_arrays())
        folder.save(f"gradient-{layers}", gradients)
        folder.discard(f"state-{layers}")
    ticks.reach(len(groups) * (layers + head + _BACKWARD_UNITS * (layers - reached)))
    for layer in reversed(range(reached)):
        before = folder.require(f"gradient-{layer + 1}").values()
        block = repeat(workers.shared(model.blocks[layer]))
        done = workers.map(_backward, block, states(layer), before, ahead=1)
        gradients, sums = _add_up(_counted(done, ticks, _BACKWARD_UNITS))
        yield f"h.{layer}", sums.means(tokens)
        folder.save(f"gradient-{layer}", gradients)
        folder.discard(f"gradient-{layer + 1}")
        folder.discard(f"state-{layer}")
        ticks.reach(len(groups) * (layers + head + _BACKWARD_UNITS * (layers - layer)))
    sums = _Sums.from_arrays(folder.require("head"))
    for gradient in folder.require("gradient-0").values():
        rows = gradient.reshape(-1, gradient.shape[-1])  # [tokens, d]
        sums.add("input", "wpe.weight", squares(rows))
    yield "embeddings", _of_embeddings(model, sums.means(tokens))
    folder.discard("gradient-0")


def _reached(folder: WorkFolder, layers: int) -> int | None:
    """Return the number of layers before those that an earlier run has finished.

    None if it had no gradient yet, or if not all that the other layers need is there.
    """
    for layer in range(layers + 1):
        if folder.load(f"gradient-{layer}") is not None:
            needed = [f"state-{before}" for before in range(layer)]
            return layer if all(folder.load(name) is not None for name in needed) else None
    return None


def _head_units(model: Gpt2) -> int:
    """Return about the time of the head for one batch, over that of a block's forward pass."""
    return max(1, round(model.config.vocab_size / (5 * model.config.n_embd)))


def _counted(done: Iterator[Result], ticks: Ticks, units: int) -> Iterator[Result]:
    """Yield results, and count each of them."""
    for result in done:
        ticks.add(units)
        yield result


def _of_embeddings(model: Gpt2, measured: Moments) -> Moments:
    """Return the moments of embeddings and head, from those of the head and of the gradient.

    The embedding of a token matters as often as the token occurs, which is about as often as it
    is predicted. All positions matter equally.
    """
    positions_input, head = measured.inputs["wpe.weight"], model.head.name
    tokens_input = _EMBEDDING_WEIGHT * positions_input
    inputs = {"wte.weight": tokens_input, "wpe.weight": positions_input}
    own = measured.inputs[head]
    inputs[head] = own + tokens_input if head in inputs else own
    positions = model.config.n_positions
    importance = dict.fromkeys(inputs, measured.outputs[head][0])
    importance["wpe.weight"] = np.full(positions, 1 / positions)
    outputs = {
        name: [diagonal[columns] for columns in column_blocks(len(diagonal))]
        for name, diagonal in importance.items()
    }
    return Moments(inputs, outputs, measured.squares)


class _Sums:
    """Sums of products over tokens, which are kept by (kind, name, column block)."""

    def __init__(self) -> None:
        self._products: dict[tuple[str, str, int], NDArray[Any]] = {}

    def linear(self, layer: Linear, x: Floating, grad: Floating) -> None:
        """Add the products of a linear layer (`GradientObserver`)."""
        self.add("input", layer.name, squares(x))
        diagonals = []
        for block, columns in enumerate(column_blocks(grad.shape[1])):
            product = squares(grad[:, columns])
            diagonals.append(np.diag(product).astype(np.float64))
            self.add("output", layer.name, product, block)
        self.add("square", _bias(layer.name), np.concatenate(diagonals))

    def layer_norm(
        self,
        layer: LayerNorm,
        x: Floating,
        statistics: Float64,
        grad: Floating,
        sums: tuple[Floating, Floating],
    ) -> None:
        """Add the squares of the gradients of a LayerNorm's parameters."""
        means, factors = np.split(statistics.astype(x.dtype), 2, axis=1)
        normalised = x - means
        normalised *= factors
        normalised *= grad
        self.add("square", layer.name, _column_squares(normalised))
        self.add("square", _bias(layer.name), _column_squares(grad))

    def embedding(self, layer: Embedding, indices: Int64, grad: Floating) -> None:
        """Add nothing: the moments of an embedding are made from those of the head."""

    def add(self, kind: str, name: str, product: Any, block: int = 0) -> None:
        """Add a product of the kind `input`, `output` or `square` (see `Moments`)."""
        key = kind, name, block
        if key not in self._products:
            self._products[key] = product
        elif self._products[key].dtype == product.dtype:
            self._products[key] += product
        else:
            self._products[key] = self._products[key] + product

    def merge(self, other: "_Sums") -> None:
        """Add the sums of another object."""
        for (kind, name, block), own in other._products.items():
            self.add(kind, name, own, block)

    def means(self, tokens: int) -> Moments:
        """Divide the sums by the number of tokens.

        Raises:
            CheckpointError: a sum is not finite.
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
        """Return the sums as arrays for a work folder."""
        return {f"{kind} {name} {block}": s for (kind, name, block), s in self._products.items()}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "_Sums":
        """Return the sums that `to_arrays` gave as arrays."""
        sums = cls()
        for key, own in arrays.items():
            kind, name, block = key.split(" ")
            sums.add(kind, name, own, int(block))
        return sums


def products(x: Floating, y: Floating) -> Floating:
    """Return the sum of x y^T over the rows, `[K, N]`, in float64 if float32 might overflow.

    Args:
        x: `[rows, K]`.
        y: `[rows, N]`.
    """
    if _is_safe(x) and _is_safe(y):
        return product(x.T, y)
    return product(x.astype(np.float64).T, y.astype(np.float64))


def squares(x: Floating) -> Floating:
    """Return the sum of x x^T over the rows, `[K, K]`, in float64 if float32 might overflow.

    Only products with columns before are computed, and then copied to the other side.

    Args:
        x: `[rows, K]`.
    """
    x = x if _is_safe(x) else x.astype(np.float64)
    size = x.shape[1]
    out = np.empty((size, size), x.dtype)
    for start in range(0, size, _SQUARE_COLUMNS):
        own = slice(start, min(start + _SQUARE_COLUMNS, size))
        product(x[:, own].T, x[:, : own.stop], out[own, : own.stop])
        out[:start, own] = out[own, :start].T
    return out


def _is_safe(x: Floating) -> bool:
    """Return whether the squares of `[rows, K]` and their sums fit into float32."""
    largest = max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))
    return largest == 0 or _SMALLEST < largest < _LARGEST


def _column_squares(rows: Floating) -> Float64:
    """Return the sum of squares of each column, float64 `[n]`."""
    return np.einsum("tn,tn->n", rows, rows, dtype=np.float64)


def _forward(block: TransformerBlock, x: Float32) -> Float32:
    """Return the output of a block for one batch, `[batch, seq, d]`."""
    return block(x)


def _head(output: OutputLayer, x: Float32, seed: np.random.SeedSequence) -> tuple[Float32, _Sums]:
    """Return the gradient of -log p(y) with respect to the last block's output, and the sums."""
    rng, sums, head = np.random.default_rng(seed), _Sums(), output.head
    states = x.reshape(-1, x.shape[-1])  # [tokens, d]
    out = np.empty_like(states)
    for part in logit_chunks(len(states), head.weight.shape[1], HEAD_LOGITS):
        final = output.normed(states[part])
        gradient = head(final)  # at first the logits, then the probabilities
        sums.add("input", head.name, squares(final))
        sums.add("output", head.name, _softmax_and_variances(gradient))
        positions = np.arange(len(gradient))
        gradient[positions, draw_rows(gradient, rng)] -= 1
        # Add a random difference of two logits: its moment is that of the logits minus their mean.
        pair = rng.integers(0, gradient.shape[1], (2, len(gradient)))
        gradient[positions, pair[0]] += math.sqrt(_LOGIT_WEIGHT / 2)
        gradient[positions, pair[1]] -= math.sqrt(_LOGIT_WEIGHT / 2)
        out[part] = output.backward(states[part], final, gradient, observe_norm=sums)
    return out.reshape(x.shape), sums


def _softmax_and_variances(logits: Float32) -> Float64:
    """Turn logits `[rows, vocab]` into probabilities p, a few rows at a time.

    Returns:
        The sum of p (1 - p) over the rows, `[vocab]`, with the weight of the logits themselves.
    """
    rows, vocab_size = logits.shape
    total = np.full(vocab_size, rows * _LOGIT_WEIGHT / vocab_size)
    for start in range(0, rows, _CACHED_ROWS):
        own = softmax_in_place(logits[start : start + _CACHED_ROWS])
        total += (own * (1 - own)).sum(axis=0)
    return total


def _bias(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"


def _backward(block: TransformerBlock, x: Float32, gradient: Float32) -> tuple[Float32, _Sums]:
    """Return the gradient with respect to a block's input x, and the sums of its layers."""
    sums = _Sums()
    return block.backward(SavedTensors(x), gradient, sums), sums


def _add_up(done: Iterator[tuple[Float32, _Sums]]) -> tuple[Arrays, _Sums]:
    """Return all batches' gradients and the sum of their sums, in a fixed order of addition."""
    total, gradients = _Sums(), []
    for gradient, sums in done:
        gradients.append(gradient)
        total.merge(sums)
    return _numbered(gradients), total


def _numbered(arrays: Iterable[Float32]) -> Arrays:
    return {str(number): array for number, array in enumerate(arrays)}
