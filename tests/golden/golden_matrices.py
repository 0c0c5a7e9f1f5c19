"""Encode matrices of golden files, in every codec and with every option that changes bytes.

A recipe is a function of a float32 matrix `[K, N]`, as its codec stores it, that returns
(codec, payload).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec import scales
from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.column_blocks import column_blocks, strided_order
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock, _code, encode_block
from rbe_cli.codec.ectcq.error_feedback import quantise
from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.registry import codec_named

Float32 = NDArray[np.float32]
Recipe = Callable[[Float32], tuple[str, bytes]]
TRANSFORMS = ("dct", "haar", "cdf97")


def in_codec(codec: str, bits: float | None = None, block: int = 64) -> Recipe:
    """Return a recipe of a codec, with these options."""

    def encode(values: Float32) -> tuple[str, bytes]:
        options = CodecOptions(bits, block=block, is_asked=True)
        payload = codec_named(codec).encode(values, EncodingJob(options))
        assert payload.codec == codec
        return payload

    return encode


def trellis(
    states: int = 8, step: float = 0.3, *, is_sorted: bool = True, is_tuned: bool = False
) -> Recipe:
    """Return a recipe of `ectcq`.

    Args:
        states: of the trellis.
        step: over the standard deviation of the weights.
        is_sorted: whether the trellis runs through the columns by their levels.
        is_tuned: whether the steps of columns change afterwards, to 32 levels an octave.
    """

    def encode(values: Float32) -> tuple[str, bytes]:
        unit = float(np.float32(step * values.std())) or 1.0
        block = sorted_block if is_sorted else strided_block
        parts = (np.ascontiguousarray(values[:, own]) for own in column_blocks(values.shape[1]))
        blocks = tuple(block(part, unit, states) for part in parts)
        rows, columns = values.shape
        matrix = EncodedMatrix((rows, columns), unit, blocks, states, is_sorted=is_sorted)
        if is_tuned:
            octaves = np.random.default_rng(columns).uniform(-0.4, 0.4, columns)
            matrix = matrix.rescaled(np.exp2(octaves).astype(np.float32))
        return "ectcq", matrix.to_bytes()

    return encode


def sorted_block(weights: Float32, step: float, states: int) -> HybridBlock:
    """Encode a block as the package does."""
    inputs, outputs = even_costs(weights)
    return encode_block(weights, step, inputs, outputs, options=QuantiserOptions(states))


def strided_block(weights: Float32, step: float, states: int) -> HybridBlock:
    """Encode a block as version 1 did: levels of columns and steps come along the trellis."""
    inputs, outputs = even_costs(weights)
    options, order = QuantiserOptions(states), strided_order(weights.shape[1])
    least, most = scales.step_level_bounds(weights, step)
    steps = np.clip(scales.step_levels(outputs.diagonal, 1.0), least, most)
    columns = scales.column_levels(weights / scales.steps(step, steps))
    along, steps = columns[order], steps[order]
    integers = quantise(weights[:, order], along, steps, step, inputs, outputs, options)
    levels = scales.row_levels(integers, along), along, steps
    return _code(integers, along, levels, states)


def classic(transform: str, block: int, kept: float) -> Recipe:
    """Return a recipe of `classic` with one transform, which keeps this share of coefficients."""

    def encode(values: Float32) -> tuple[str, bytes]:
        matrix = ClassicMatrix.encode(values, 6 * 8 * kept, block)
        number = TRANSFORMS.index(transform)
        blocks = tuple(replace(own, transform=number) for own in matrix.blocks)
        return "classic", replace(matrix, blocks=blocks).to_bytes()

    return encode


def even_costs(weights: Float32) -> tuple[InputFactor, OutputFactor]:
    """Return factors by which errors in all weights `[K, B]` cost the same."""
    importance = np.ones(weights.shape[1])
    return InputFactor.identity(len(weights)), OutputFactor.from_importance(importance)
