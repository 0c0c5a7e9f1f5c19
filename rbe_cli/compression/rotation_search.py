"""Find a rotation of the residual stream in which a model takes the fewest bits.

The entropy coder takes the weights of a vector to be independent, and has a scale for each row and
each column. So vectors whose element j has the power v_j take sum(log2 v_j) / 2 bits each, and a
constant. The search turns the basis, from the identity on, until the sum over all matrices is
smallest. With one matrix, the result would be its principal axes. With many, it is an approximate
joint diagonalisation (Flury and Gautschi 1986, SIAM J. Sci. Stat. Comput. 7(1)). It goes down the
gradient on the orthogonal matrices (Edelman, Arias and Smith 1998), with the curvature of each pair
of axes by itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import log2
from rbe_cli.algebra.orthonormal import orthonormal
from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.stream_rotation import coded_vectors, householder, inner_rotation
from rbe_cli.compression.moments import squares
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import reads_stream
from rbe_cli.runtime.arrays import Float32, Float64, sum_of_squares
from rbe_cli.runtime.thread_team import Team

_LEAST_GAIN = 0.01  # bits a weight; less is not worth the longer run and the slower decoding
_STEPS = 24  # more of them save less than .003 bits a weight
_RATE = 0.6  # of a step, relative to Newton's for a pair of axes
_LEAST_CURVATURE = 0.05
_LONGEST_STEP = 0.5  # root mean square of the angles between the axes before and after
# This share of a moment's mean diagonal is added to its diagonal. It is about the power of the
# errors at 2 bits: an element with less power takes almost no bits.
_DAMPING = 0.0625
_LEAST_DAMPING = 1e-12
_DEPTHS = 3  # thirds of the layers, whose matrices of a kind are taken together
_CHUNK = 4096  # vectors whose products are added at once
_PARTS = "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
# Quantisation steps of the coded vectors, whose root mean square is 1.
_CODED_STEPS = 0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.06


@dataclass(frozen=True)
class _Kind:
    """Matrices of one kind from neighbouring layers.

    Attributes:
        moment: mean of w w^T over their vectors w of length 1, without the direction of the ones,
            float32 `[d - 1, d - 1]`.
        weights: the number of weights.
    """

    moment: Float32
    weights: int


def find_rotation(config: Gpt2Config, tensors: Mapping[str, Float32], team: Team) -> bytes | None:
    """Return the encoded rotation that saves the most bits, itself included.

    None if none saves .01 bits a weight.

    Args:
        config: of the model.
        tensors: of the model with folded LayerNorms (`stream_rotation.folded`), float32.
        team: the threads that multiply.

    Returns:
        A payload of the codec `ectcq` for the values of `coded_vectors`.
    """
    if config.n_embd < 3:  # a rotation that keeps the vector of ones would at most be a reflection
        return None
    kinds = [
        _kind(names, (tensors[name] for name in names), config.n_embd)
        for names in _names_of_kinds(config)
    ]
    if not all(np.isfinite(kind.moment).all() for kind in kinds):  # gamma is huge
        return None
    coded = coded_vectors(_search(kinds, team)).astype(np.float32)
    saved, found = _LEAST_GAIN * sum(kind.weights for kind in kinds), None
    for step in _CODED_STEPS:
        data = ECTCQ.encode(coded, EncodingJob(CodecOptions(), step=step)).data
        decoded = inner_rotation(ECTCQ.decode(data, coded.shape), team)
        bits = _saved_bits(kinds, decoded, team) - 8 * len(data)
        if bits > saved:
            saved, found = bits, data
    return found


def _names_of_kinds(config: Gpt2Config) -> Iterator[list[str]]:
    """Yield the names of the matrices of each kind."""
    for part in _PARTS:
        for third in np.array_split(np.arange(config.n_layer), min(_DEPTHS, config.n_layer)):
            yield [f"h.{layer}.{part}.weight" for layer in third]
    yield ["wte.weight"]
    yield ["wpe.weight"]
    if not config.tie_word_embeddings:
        yield ["lm_head.weight"]


def _kind(names: Sequence[str], matrices: Iterable[Float32], width: int) -> _Kind:
    """Return the kind of some matrices in the shape of a checkpoint, which are read one by one.

    Args:
        names, matrices: canonical names, and float32.
        width: of the residual stream.
    """
    total, vectors, weights = np.zeros((width, width)), 0, 0
    for name, matrix in zip(names, matrices, strict=True):
        rows = matrix.T if reads_stream(name) else matrix  # [vectors, d]
        for start in range(0, len(rows), _CHUNK):
            total += squares(_normalised(rows[start : start + _CHUNK]))
        vectors, weights = vectors + len(rows), weights + matrix.size
    moment = householder(householder(total / vectors).T)[:-1, :-1]
    damping = max(_DAMPING * float(np.trace(moment)) / len(moment), _LEAST_DAMPING)
    moment[np.diag_indices_from(moment)] += damping
    return _Kind(moment.astype(np.float32), weights)


def _normalised(rows: Float32) -> Float32:
    """Return vectors `[n, d]` of length 1; zeros stay zeros."""
    largest: Float32 = np.abs(rows).max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    with np.errstate(invalid="ignore"):  # infinite where a folded LayerNorm overflowed
        scaled = rows / largest
    lengths: Float32 = np.sqrt((scaled.T * scaled.T).sum(axis=0))
    lengths[lengths == 0] = 1
    scaled /= lengths[:, None]
    return scaled


def _search(kinds: Sequence[_Kind], team: Team) -> Float64:
    """Return the rotation `[d - 1, d - 1]` that the search ends with.

    Its axes are sorted by the power of the weights' elements along them: in memory, 32
    neighbouring rows have integers of one width.
    """
    size = len(kinds[0].moment)
    shares = [kind.weights / sum(own.weights for own in kinds) for kind in kinds]
    rotation = np.eye(size)
    for _ in range(_STEPS):
        slopes = np.zeros((size, size), np.float32)
        curvature = np.zeros((size, size))
        for kind, share in zip(kinds, shares, strict=True):
            turned, powers = _turned(kind, rotation, team)
            slopes += turned * (share / powers).astype(np.float32)
            curvature += share * powers[:, None] / powers  # and its transpose, less 2
        gradient = product(rotation.T, slopes.astype(np.float64), team=team)
        curvature = np.maximum(curvature + curvature.T - 2, _LEAST_CURVATURE)
        step = _RATE * (gradient.T - gradient) / curvature
        length = float(np.sqrt(sum_of_squares(step) / size))
        step *= min(1.0, _LONGEST_STEP / length) if length > 0 else 1.0
        rotation = orthonormal(rotation + product(rotation, step, team=team), team)
    logarithms = sum(
        share * log2(_turned(kind, rotation, team)[1])
        for kind, share in zip(kinds, shares, strict=True)
    )
    return rotation[:, np.argsort(logarithms, kind="stable")]


def _turned(kind: _Kind, rotation: Float64, team: Team) -> tuple[Float32, Float64]:
    """Return the moment times the rotation, and the powers `[d - 1]` of the new elements."""
    axes = rotation.astype(np.float32)
    turned = product(kind.moment, axes, team=team)
    return turned, (turned * axes).sum(axis=0, dtype=np.float64)


def _saved_bits(kinds: Sequence[_Kind], rotation: Float64, team: Team) -> float:
    """Return how many bits a rotation saves, without its own."""
    saved = 0.0
    for kind in kinds:
        _, powers = _turned(kind, rotation, team)
        before = np.diag(kind.moment).astype(np.float64)
        saved += kind.weights * float(np.mean(log2(before / powers))) / 2
    return saved
