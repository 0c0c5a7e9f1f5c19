"""Encode matrices again, layer by layer, so that they correct the errors of earlier layers.

The original and the compressed model, as far as it is encoded, compute the calibration text side by
side. Before a matrix is encoded, ridge regression changes it to give the original's output on the
compressed model's input. The two matrices whose outputs are added to the residual stream are
changed to give the original's residual stream. Thus later layers correct the errors of the first
ones (as in GPTAQ, Li et al. 2025, arXiv 2504.02692, but for whole matrices before they are
quantised). The bias is then set so that the mean error is zero. No gradient is needed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.factors import solve_positive
from rbe_cli.codec.error_cost import InputFactor
from rbe_cli.compression.metric import input_factor
from rbe_cli.compression.moments import products
from rbe_cli.evaluation.batching import Tokens, batches
from rbe_cli.jobs.workers import Workers
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float64, Floating
from rbe_cli.weights.weight_forms import dense

RIDGE = 0.15  # relative to the mean power of the inputs; .05 and .02 are worse on other text
Encode = Callable[[str, Floating, InputFactor], Floating]
"""Maps (name, weights `[K, N]`, factor of the inputs' moment) to the decoded weights."""


@dataclass(frozen=True)
class _Stream:
    """The states of a batch in both models.

    Attributes:
        original, compressed: the residual streams, `[batch, seq, d]`.
        x: the input of the current matrix in the compressed model, `[tokens, K]`.
        target: the wanted output of the current matrix, `[tokens, N]`.
    """

    original: Floating
    compressed: Floating
    x: Floating
    target: Floating


@dataclass(frozen=True)
class _Moments:
    """Sums over tokens, which are kept in float64.

    Attributes:
        tokens: the number of tokens.
        inputs: x^T x, `[K, K]`.
        products: x^T error, `[K, N]`.
        sum_x, sum_error: the sums of x `[K]` and of the error `[N]`.
    """

    tokens: int
    inputs: Float64
    products: Float64
    sum_x: Float64
    sum_error: Float64

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(
            self.tokens + other.tokens,
            self.inputs + other.inputs,
            self.products + other.products,
            self.sum_x + other.sum_x,
            self.sum_error + other.sum_error,
        )

    def correction(self) -> Float64:
        """Return the change of the weights `[K, N]` that minimises the error, with damping."""
        mean = self.sum_x / self.tokens
        inputs = self.inputs - self.tokens * np.outer(mean, mean)
        products = self.products - np.outer(mean, self.sum_error)
        inputs[np.diag_indices_from(inputs)] += RIDGE * np.mean(np.diag(self.inputs)) or 1.0
        return solve_positive(inputs, products)


def reconstruct(
    model: Gpt2,
    compressed: Gpt2,
    sequences: Sequence[Tokens],
    bits: Mapping[str, float],
    encode: Encode,
    workers: Workers,
    progress: Progress,
) -> dict[str, Floating]:
    """Encode the matrices of all layers again, from the first to the last.

    Args:
        model: the original, with dense matrices.
        compressed: the compressed model. The matrices and biases of its layers are replaced
            when they are encoded.
        sequences: the calibration text.
        bits: the bits per weight of each matrix to encode again. Others are not changed.
        encode: encodes a matrix.
        workers: compute batches in parallel.
        progress: called after each matrix.

    Returns:
        The new biases by name, float32 `[N]`.
    """
    biases: dict[str, Floating] = {}
    streams = [
        _Stream(model.embed(group), compressed.embed(group), _NOTHING, _NOTHING)
        for group in batches(sequences)
    ]
    total, done = 4 * len(model.blocks), 0
    progress("reconstructing", 0, total)
    for block, other in zip(model.blocks, compressed.blocks, strict=True):
        for number, (linear, own) in enumerate(zip(_linears(block), _linears(other), strict=True)):
            streams = list(workers.map(_ENTER[number], repeat(block), repeat(other), streams))
            if own.name in bits:
                name = f"{own.name.removesuffix('weight')}bias"
                moments = _moments(linear, streams, workers)
                weights = np.asarray(dense(linear.weight), np.float64) + moments.correction()
                inputs = moments.inputs / moments.tokens
                factor = input_factor(inputs, bits[own.name], moments.tokens)
                own.weight = encode(own.name, weights.astype(np.float32), factor)
                own.bias[:] = biases[name] = _bias(own, linear, moments)
            streams = list(workers.map(_leave, repeat(own), repeat(number % 2 == 1), streams))
            done += 1
            progress("reconstructing", done, total)
    return biases


def _moments(linear: Linear, streams: Sequence[_Stream], workers: Workers) -> _Moments:
    parts = workers.map(_batch_moments, repeat(linear), streams)
    total = next(parts)
    for part in parts:
        total += part
    return total


def _batch_moments(linear: Linear, stream: _Stream) -> _Moments:
    """Sum the error of the original matrix on the compressed model's input over a batch."""
    x, error = stream.x, stream.target - linear(stream.x)
    sums = (part.sum(axis=0, dtype=np.float64) for part in (x, error))
    with_both = (products(x, part).astype(np.float64) for part in (x, error))
    return _Moments(len(x), *with_both, *sums)


def _bias(own: Linear, original: Linear, moments: _Moments) -> Floating:
    """Return the bias that makes the mean error of an encoded matrix zero."""
    change = np.asarray(dense(original.weight), np.float64) - dense(own.weight)
    mean = (moments.sum_error + product(moments.sum_x[None], change)[0]) / moments.tokens
    return (original.bias + mean).astype(np.float32)


def _linears(block: TransformerBlock) -> Iterator[Linear]:
    """Yield the linear layers of a block, in order of use."""
    yield from (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)


def _enter_c_attn(block: TransformerBlock, other: TransformerBlock, stream: _Stream) -> _Stream:
    target = block.attn.c_attn(block.ln_1(stream.original))
    return replace(stream, x=_flat(other.ln_1(stream.compressed)), target=_flat(target))


def _enter_attn_proj(block: TransformerBlock, other: TransformerBlock, stream: _Stream) -> _Stream:
    """Set input and target of the attention's `c_proj`, given the outputs of `c_attn`."""
    shape = *stream.original.shape[:2], -1
    attended = block.attn.attend(stream.target.reshape(shape))
    inputs = other.attn.attend(stream.x.reshape(shape))
    return _enter_sum(stream, block.attn.c_proj(attended), inputs)


def _enter_c_fc(block: TransformerBlock, other: TransformerBlock, stream: _Stream) -> _Stream:
    target = block.mlp.expand(block.ln_2(stream.original))
    return replace(stream, x=_flat(other.ln_2(stream.compressed)), target=_flat(target))


def _enter_mlp_proj(block: TransformerBlock, other: TransformerBlock, stream: _Stream) -> _Stream:
    """Set input and target of the MLP's `c_proj`, given the outputs of `c_fc`."""
    added = block.mlp.contract(stream.target).reshape(stream.original.shape)
    return _enter_sum(stream, added, other.mlp.activated(stream.x))


def _enter_sum(stream: _Stream, added: Floating, x: Floating) -> _Stream:
    """Set x, and as its target the original stream's sum minus the compressed stream."""
    original = stream.original + added
    return replace(
        stream, original=original, x=_flat(x), target=_flat(original - stream.compressed)
    )


_ENTER = _enter_c_attn, _enter_attn_proj, _enter_c_fc, _enter_mlp_proj


def _leave(own: Linear, is_sum: bool, stream: _Stream) -> _Stream:
    """Apply the encoded matrix. Its output becomes x, or is added to the residual stream."""
    out = own(stream.x)
    if not is_sum:
        return replace(stream, x=out)
    compressed = stream.compressed + out.reshape(stream.compressed.shape)
    return _Stream(stream.original, compressed, _NOTHING, _NOTHING)


def _flat(x: Floating) -> Floating:
    return x.reshape(-1, x.shape[-1])


_NOTHING = np.zeros((0, 0), np.float32)
