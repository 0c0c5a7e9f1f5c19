"""Encode the matrices of the layers in order, so that each corrects the errors before it.

The original and the compressed model, as far as it is encoded, compute the calibration text side by
side. Before a matrix is encoded, ridge regression changes it to give the original's output on the
compressed model's input. The two matrices whose outputs are added to the residual stream are
changed to give the original's residual stream. So later layers correct the errors of the first
ones (as in GPTAQ, Li et al. 2025, arXiv 2504.02692, but for whole matrices before they are
quantised). The moment of the compressed model's inputs replaces that of the original's in the cost
of errors. The bias is then set so that the mean error is zero. No gradient is needed.

Between the matrices, the states of each batch wait in the work folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Protocol

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.factors import solve_positive
from rbe_cli.choices import Objective
from rbe_cli.compression.moments import products, squares
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.evaluation.batching import Tokens, batches
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import stored_shapes, tensor_shapes
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32, Float64, Floating
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.on_demand import OnDemand
from rbe_cli.weights.weight_forms import dense

_MOST_BITS = 5.5  # per weight; above it a correction was not measured
# Ridge, relative to the mean power of the inputs: with any number of tokens, and times the inputs
# for each token. With few tokens a matrix would be fitted to chance (docs/design-notes.md).
_RIDGE, _TOKEN_RIDGE = 0.15, 5.0
_STAGE = "correcting drift"


def rates_to_correct(
    plans: Iterable[TensorPlan], rate: float, objective: Objective
) -> dict[str, float]:
    """Return about the bits per weight of each matrix whose drift is worth a correction.

    Args:
        plans: the plans of all tensors.
        rate: bits per weight of the matrices whose rate is free.
        objective: with `outputs`, the error of each layer is minimised by itself.
    """
    if objective != "kl":
        return {}
    layers = [own for own in plans if own.role == "linear" and own.codec.weighs_errors]
    rates = {own.name: own.options.bits or rate for own in layers}
    bits = sum(rates[own.name] * own.size for own in layers)
    return rates if bits <= _MOST_BITS * sum(own.size for own in layers) else {}


@dataclass(frozen=True)
class Corrected:
    """A matrix to encode, which corrects the drift of the compressed model.

    Attributes:
        name: its canonical name.
        weights: float32 `[K, N]`.
        inputs: the moment of its inputs in the compressed model, E[y y^T], float64 `[K, K]`.
        tokens: the number of tokens of the mean.
    """

    name: str
    weights: Float32
    inputs: Float64
    tokens: int


class Encoder(Protocol):
    """Encodes the tensors of the compressed model, and decodes them."""

    def corrects(self, name: str) -> bool:
        """Return whether a matrix of a layer is to be corrected."""

    def encode(self, corrected: Corrected, bias: Callable[[Float32], Float32]) -> None:
        """Encode a corrected matrix, and then its bias.

        Args:
            corrected: the matrix.
            bias: returns the bias `[N]` that suits the decoded weights `[K, N]`.
        """

    def restore(self, name: str) -> None:
        """Take up a matrix and its bias that an earlier run has encoded."""

    def decoded(self, name: str) -> Float32:
        """Return a tensor as it is encoded so far, a matrix as `[inputs, outputs]`."""


@dataclass(frozen=True)
class _BothStates:
    """What a batch has in both models at the current matrix.

    Attributes:
        original, compressed: the residual streams, `[batch, seq, d]`.
        x, y: the inputs of the matrix in the original and in the compressed model, `[tokens, K]`.
            x is empty at the matrices whose outputs are added to the residual stream, because
            the original stream has their sum already.
    """

    original: Floating
    compressed: Floating
    x: Floating
    y: Floating

    def to_arrays(self) -> Arrays:
        """Return the fields as arrays for a work folder."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Position:
    """One of the four matrices of a layer, with what leads to it.

    Attributes:
        number: from 0 to 3, in the order of use.
        block, other: the layer of the original and of the compressed model.
        before: the matrix of the compressed model whose output is added to the residual stream
            before this one; None if there is none.
    """

    number: int
    block: TransformerBlock
    other: TransformerBlock
    before: Linear | None

    @property
    def is_sum(self) -> bool:
        """Return whether the output is added to the residual stream."""
        return self.number % 2 == 1

    @property
    def original(self) -> Linear:
        """Return the matrix of the original."""
        return _linears(self.block)[self.number]


@dataclass(frozen=True)
class _Moments:
    """Sums over tokens.

    Attributes:
        tokens: the number of tokens.
        inputs: y^T y, `[K, K]`.
        products: y^T e, `[K, N]`, for an error e of the matrix or of its inputs.
        sum_y, sum_e: the sums of y `[K]` and of e `[N]`.
    """

    tokens: int
    inputs: Floating
    products: Floating
    sum_y: Float64
    sum_e: Float64

    def __add__(self, other: "_Moments") -> "_Moments":
        """Return the sum in float64, in the memory of this object where that is float64."""
        inputs = self.inputs.astype(np.float64, copy=False)
        products = self.products.astype(np.float64, copy=False)
        inputs += other.inputs
        products += other.products
        sums = self.sum_y + other.sum_y, self.sum_e + other.sum_e
        return _Moments(self.tokens + other.tokens, inputs, products, *sums)

    @classmethod
    def of(cls, y: Floating, e: Floating) -> "_Moments":
        """Return the sums over the tokens of a batch."""
        sums = (own.sum(axis=0, dtype=np.float64) for own in (y, e))
        return cls(len(y), squares(y), products(y, e), *sums)

    def bias_of(self, position: _Position) -> Callable[[Float32], Float32]:
        """Return a function that finds the bias of decoded weights: the mean error becomes zero."""
        linear = position.original
        weights = np.asarray(dense(linear.weight), np.float64)

        def bias(decoded: Float32) -> Float32:
            """Return the bias `[N]` for the decoded weights `[K, N]`."""
            own = self.sum_e[None] if position.is_sum else product(self.sum_e[None], weights)
            total = own[0] + product(self.sum_y[None], weights - decoded)[0]
            return (linear.bias + total / self.tokens).astype(np.float32)

        return bias


class DriftCorrection:
    """A pass over the calibration text that encodes the matrices of all layers in order."""

    def __init__(
        self,
        model: Gpt2,
        sequences: Sequence[Tokens],
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Set what does not depend on the encoded tensors.

        Args:
            model: the original, with dense matrices.
            sequences: the calibration text.
            workers: compute batches in parallel.
            folder: keeps the states of batches.
            progress: called after each matrix.
        """
        self._model = model
        self._batches = list(batches(sequences))
        self._workers = workers
        self._folder = folder
        self._progress = progress

    def __call__(self, encoder: Encoder, tag: str) -> None:
        """Encode the matrices of all layers, from the first to the last.

        Args:
            encoder: has the other tensors of the compressed model already.
            tag: begins the names of what is kept in the work folder.
        """
        model, before = self._model, None
        total = 4 * len(model.blocks)
        self._progress(_STAGE, 0, total)
        begun = self._folder.load(tag)
        done = int(begun["positions"]) if begun else 0
        shapes = stored_shapes if model.rotation else tensor_shapes
        tensors = OnDemand(shapes(model.config), encoder.decoded)
        compressed = Gpt2(model.config, tensors, model.kernels, streamed=True)
        if not begun:
            self._save(tag, 0, self._embedded(compressed))
        for layer, (block, other) in enumerate(zip(model.blocks, compressed.blocks, strict=True)):
            for number, own in enumerate(_linears(other)):
                position = _Position(number, block, other, before)
                index, is_corrected = 4 * layer + number, encoder.corrects(own.name)
                if index >= done:
                    moments = self._advance(position, is_corrected, tag, index)
                    if moments is not None:
                        corrected = _corrected(position, moments, self._workers.team)
                        encoder.encode(corrected, moments.bias_of(position))
                    self._folder.save(tag, {"positions": np.array(index + 1)})
                    self._discard(tag, index)
                elif is_corrected:
                    encoder.restore(own.name)
                if is_corrected:
                    own.weight = encoder.decoded(own.name)
                    own.bias[:] = encoder.decoded(bias_name(own.name))
                before = own if position.is_sum else None
                self._progress(_STAGE, index + 1, total)
        self._discard(tag, total)

    def _embedded(self, compressed: Gpt2) -> Iterator[_BothStates]:
        """Yield the states of each batch before the first layer."""
        for tokens in self._batches:
            embedded = self._model.embed(tokens), compressed.embed(tokens)
            yield _BothStates(*embedded, _NOTHING, _NOTHING)

    def _advance(
        self, position: _Position, is_measured: bool, tag: str, index: int
    ) -> _Moments | None:
        """Bring the states of all batches to a position; return its moments if wanted."""
        total: _Moments | None = None

        def states() -> Iterator[_BothStates]:
            """Yield the states of each batch at this position, and add up its moments."""
            nonlocal total
            before = (self._load(tag, index, number) for number in range(len(self._batches)))
            done = self._workers.map(_enter, repeat(position), repeat(is_measured), before, ahead=1)
            for own, moments in done:
                if moments is not None:
                    total = moments if total is None else total + moments
                yield own

        self._save(tag, index + 1, states())
        return total

    def _save(self, tag: str, index: int, states: Iterator[_BothStates]) -> None:
        for number, own in enumerate(states):
            self._folder.save(f"{tag}-{index}-{number}", own.to_arrays())

    def _load(self, tag: str, index: int, number: int) -> _BothStates:
        return _BothStates(**self._folder.require(f"{tag}-{index}-{number}"))

    def _discard(self, tag: str, index: int) -> None:
        for number in range(len(self._batches)):
            self._folder.discard(f"{tag}-{index}-{number}")


def _enter(
    position: _Position, is_measured: bool, states: _BothStates
) -> tuple[_BothStates, _Moments | None]:
    """Bring the states of a batch to a position, and sum its moments if wanted."""
    if position.before is not None:
        added = position.before(states.y).reshape(states.compressed.shape)
        states = replace(states, compressed=states.compressed + added)
    states = _ENTER[position.number](position.block, position.other, states)
    if not is_measured:
        return states, None
    if position.is_sum:
        target = _flat(states.original - states.compressed)
        return states, _Moments.of(states.y, target - position.original(states.y))
    return states, _Moments.of(states.y, states.x - states.y)


def _enter_c_attn(
    block: TransformerBlock, other: TransformerBlock, states: _BothStates
) -> _BothStates:
    x, y = block.ln_1(states.original), other.ln_1(states.compressed)
    return replace(states, x=_flat(x), y=_flat(y))


def _enter_attn_proj(
    block: TransformerBlock, other: TransformerBlock, states: _BothStates
) -> _BothStates:
    shape = *states.original.shape[:2], -1
    x, y = (
        _flat(own.attn.attend(own.attn.c_attn(inputs).reshape(shape)))
        for own, inputs in ((block, states.x), (other, states.y))
    )
    return _enter_sum(states, block.attn.c_proj(x), y)


def _enter_c_fc(
    block: TransformerBlock, other: TransformerBlock, states: _BothStates
) -> _BothStates:
    x, y = block.ln_2(states.original), other.ln_2(states.compressed)
    return replace(states, x=_flat(x), y=_flat(y))


def _enter_mlp_proj(
    block: TransformerBlock, other: TransformerBlock, states: _BothStates
) -> _BothStates:
    y = other.mlp.activated(other.mlp.expand(states.y))
    return _enter_sum(states, block.mlp(states.x), y)


def _enter_sum(states: _BothStates, added: Floating, y: Floating) -> _BothStates:
    original = states.original + added.reshape(states.original.shape)
    return replace(states, original=original, x=_NOTHING, y=y)


_ENTER = _enter_c_attn, _enter_attn_proj, _enter_c_fc, _enter_mlp_proj


def _corrected(position: _Position, moments: _Moments, team: Team) -> Corrected:
    """Return the matrix that minimises the error, with damping."""
    linear = position.original
    weights = np.asarray(dense(linear.weight), np.float64)
    mean = moments.sum_y / moments.tokens
    centred = moments.inputs - moments.tokens * np.outer(mean, mean)
    products = moments.products - np.outer(mean, moments.sum_e)
    if not position.is_sum:  # they are of an error of the inputs
        products = product(products, weights, team=team)
    ridge = _RIDGE + _TOKEN_RIDGE * len(centred) / moments.tokens
    centred[np.diag_indices_from(centred)] += ridge * np.mean(np.diag(moments.inputs)) or 1.0
    weights = weights + solve_positive(centred, products, team)
    inputs = moments.inputs / moments.tokens
    return Corrected(linear.name, weights.astype(np.float32), inputs, moments.tokens)


def _linears(block: TransformerBlock) -> tuple[Linear, ...]:
    """Return the linear layers of a block, in order of use."""
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def bias_name(name: str) -> str:
    """Return the name of the bias of a layer's matrix."""
    return f"{name.removesuffix('weight')}bias"


def _flat(x: Floating) -> Floating:
    return x.reshape(-1, x.shape[-1])


_NOTHING = np.zeros((0, 0), np.float32)
