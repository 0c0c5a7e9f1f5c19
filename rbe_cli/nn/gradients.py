"""Gather the gradients of a model's parameters in backward passes."""

from collections.abc import Collection

import numpy as np

from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.loss import cross_entropy
from rbe_cli.nn.tape import Tape
from rbe_cli.runtime.arrays import Float64, Floating, Int64
from rbe_cli.weights.weight_forms import parameter_gradients, parameters


class Gradients:
    """Add up the gradients that backward passes show to it as a `GradientObserver`.

    Attributes:
        sums: by the names of `parameters.split`. Tied embeddings have one sum of both uses.
    """

    def __init__(self, wanted: Collection[str] | None = None) -> None:
        """Gather the gradients of the parameters named in `wanted`; None for all."""
        self.sums: dict[str, Floating] = {}
        self._wanted = wanted

    def linear(self, layer: Linear, x: Floating, grad: Floating) -> None:
        """Add the gradients of weight and bias."""
        if layer.has_bias:
            self._add(_bias(layer.name), grad.sum(axis=0))
        if self._wants(layer):
            self._add_weight(layer, layer.kernels.product(x.T, grad))

    def layer_norm(
        self,
        layer: LayerNorm,
        x: Floating,
        statistics: Float64,
        grad: Floating,
        sums: tuple[Floating, Floating],
    ) -> None:
        """Add the gradients of gamma and beta; of a number, the sum over all elements."""
        for name, parameter, own in (
            (layer.name, layer.gamma, sums[0]),
            (_bias(layer.name), layer.beta, sums[1]),
        ):
            is_scalar = isinstance(parameter, float)
            self._add(name, own.sum(keepdims=True) if is_scalar else own.reshape(layer.shape))

    def embedding(self, layer: Embedding, indices: Int64, grad: Floating) -> None:
        """Add the gradient of the table, whose rows may be used several times."""
        if not self._wants(layer):
            return
        flat, rows = indices.ravel(), grad.reshape(-1, grad.shape[-1])  # [tokens, n_embd]
        order = np.argsort(flat, kind="stable")
        found, starts = np.unique(flat[order], return_index=True)
        sums = np.zeros(layer.weight.shape[::-1], grad.dtype)  # [rows, n_embd]
        sums[found] = np.add.reduceat(rows[order], starts, axis=0)
        self._add_weight(layer, sums.T)

    def merge(self, other: "Gradients") -> None:
        """Add what another has summed."""
        for name, grad in other.sums.items():
            self._add(name, grad)

    def _wants(self, layer: Linear | Embedding) -> bool:
        """Return whether any parameter of its weight is wanted."""
        if self._wanted is None:
            return True
        return any(f"{layer.name}{suffix}" in self._wanted for suffix in parameters(layer.weight))

    def _add_weight(self, layer: Linear | Embedding, grad: Floating) -> None:
        for suffix, own in parameter_gradients(layer.weight, grad).items():
            self._add(f"{layer.name}{suffix}", own)

    def _add(self, name: str, grad: Floating) -> None:
        if self._wanted is not None and name not in self._wanted:
            return
        self.sums[name] = self.sums[name] + grad if name in self.sums else grad


def _bias(name: str) -> str:
    return f"{name.removesuffix('weight')}bias"


def loss_and_gradients(
    model: Gpt2, tokens: Int64, wanted: Collection[str] | None = None, *, checkpoint: bool = True
) -> tuple[float, dict[str, Floating]]:
    """Return the mean cross-entropy of next tokens in nats, and its gradients by name.

    Args:
        model: computes.
        tokens: ids `[batch, seq]`, of which all but the last are read and all but the first
            predicted.
        wanted: names of parameters (`parameters.split`); None for all.
        checkpoint: keep the blocks' inputs alone for the backward pass.

    Raises:
        UsageError: as `Gpt2.forward`.
    """
    found, targets = Gradients(wanted), tokens[:, 1:]
    with Tape(checkpoint=checkpoint) as tape:
        logits = model.logits(model.record(tokens[:, :-1], tape))
        loss, grad = cross_entropy(logits, targets)
        grad /= grad.dtype.type(targets.size)
        model.backward(tape, grad, found)
    return loss / targets.size, found.sums
