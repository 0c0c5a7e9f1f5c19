"""Second moments of a model's activations and gradients: what an error in a weight costs.

The cost of a change of the weights is, to second order, its KL divergence from the model as
it is, whose curvature is the Fisher matrix: the second moment of the gradient of -log p(y),
y sampled from the model's own predictions (Martens 2014, section 9.2). By Kronecker factors,
a linear layer's part of it is the moment of its inputs times that of the gradient with respect
to its outputs.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import count
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.geometry import column_blocks
from rbe_cli.errors import CheckpointError
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.tasks.calibration import Tokens, batches
from rbe_cli.tasks.evaluate import log_softmax
from rbe_cli.text.sampling import sample_rows

Float32 = NDArray[np.float32]
_LANES = 2  # sums that grow side by side: fixed, so that results do not depend on threads
_STAGE = "measuring layers"


@dataclass(frozen=True)
class Moments:
    """Means over the tokens that were seen.

    Attributes:
        inputs: by weight name, E[x x^T] of the linear layer's input, float32 `[K, K]`.
        outputs: by weight name, without the head, E[g g^T] of the gradient with respect to the
            layer's output, for each of its column blocks, float32 `[B, B]`.
        embedded: E[g g^T] of the gradient with respect to the sum of the two embeddings,
            float32 `[n_embd, n_embd]`.
        importance: E[p (1 - p)] of each token's probability, float64 `[vocab_size]`.
    """

    inputs: dict[str, Float32]
    outputs: dict[str, list[Float32]]
    embedded: Float32
    importance: NDArray[np.float64]


def collect(
    model: Gpt2, sequences: Sequence[Tokens], seed: int, executor: Executor, progress: Progress
) -> Moments:
    """The moments of a dense model over token sequences.

    Args:
        model: float32.
        sequences: at least one.
        seed: of the tokens that are sampled from the predictions.
        executor: runs batches side by side.
        progress: told after each batch.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    groups = list(batches(sequences, model.config.vocab_size))
    seeds = np.random.SeedSequence(seed).spawn(len(groups))
    done, one_at_a_time = count(1), Lock()
    progress(_STAGE, 0, len(groups))

    def add_up(lane: int) -> _Sums:
        sums = _Sums(model)
        for group, group_seed in list(zip(groups, seeds, strict=True))[lane::_LANES]:
            sums.add(group, np.random.default_rng(group_seed))
            with one_at_a_time:
                progress(_STAGE, next(done), len(groups))
        return sums

    first, *others = executor.map(add_up, range(_LANES))
    for other in others:
        first.merge(other)
    return first.means(sum(group.size for group in groups))


class _Sums:
    """Sums of products over batches, by (kind, weight name, column block)."""

    def __init__(self, model: Gpt2) -> None:
        self._model = model
        self._products: dict[tuple[str, str, int], Float32] = {}
        self._importance = np.zeros(model.config.vocab_size)

    def add(self, tokens: Tokens, rng: np.random.Generator) -> None:
        """Take in a batch `[batch, seq]`."""
        states: list[Float32] = []

        def see_forward(name: str, values: Float32) -> None:
            if name.endswith(".weight"):
                self._add_product(("input", name, 0), values)
            else:
                states.append(values.copy())

        def see_backward(name: str, gradient: Float32) -> None:
            if name != self._model.head.name:
                for block, columns in enumerate(column_blocks(gradient.shape[1])):
                    self._add_product(("output", name, block), gradient[:, columns])

        logits = self._model.forward(tokens, observe=see_forward)
        gradient = np.exp(log_softmax(logits))  # [batch, seq, vocab], so far the probabilities
        flat = gradient.reshape(-1, gradient.shape[-1])
        self._importance += flat.sum(axis=0, dtype=np.float64)
        self._importance -= np.einsum("tv,tv->v", flat, flat)
        sampled = sample_rows(logits.reshape(flat.shape), rng)
        flat[np.arange(len(flat)), sampled] -= 1  # now that of -log p(sampled)
        embedded = self._model.backward(tokens, states, gradient, see_backward)
        self._add_product(("embedded", "", 0), embedded.reshape(-1, embedded.shape[-1]))

    def merge(self, other: "_Sums") -> None:
        """Take in what another has summed."""
        for key, product in other._products.items():
            self._add(key, product)
        self._importance += other._importance

    def means(self, tokens: int) -> Moments:
        """The sums over the number of tokens.

        Raises:
            CheckpointError: one is not finite.
        """
        inputs: dict[str, Float32] = {}
        outputs: dict[str, list[Float32]] = {}
        for (kind, name, _), total in sorted(self._products.items(), key=lambda item: item[0]):
            if not np.isfinite(total).all():
                raise CheckpointError(f"the {kind} of {name or 'the embedding'} overflows")
            total /= np.float32(tokens)
            if kind == "input":
                inputs[name] = total
            elif kind == "output":
                outputs.setdefault(name, []).append(total)
            else:
                embedded = total
        return Moments(inputs, outputs, embedded, self._importance / tokens)

    def _add_product(self, key: tuple[str, str, int], rows: Float32) -> None:
        """Add X^T X."""
        self._add(key, rows.T @ rows)

    def _add(self, key: tuple[str, str, int], product: Float32) -> None:
        if key in self._products:
            self._products[key] += product
        else:
            self._products[key] = product
