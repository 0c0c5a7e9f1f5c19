"""Times the layers of a transformer block with random 8-bit weights, by either kernels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from statistics import median

import numpy as np
import psutil

from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.names import is_embedding, is_matrix, tensor_shapes
from rbe_cli.codec.panels import INT_8, panel_shape
from rbe_cli.engine.warm_up import compile_steps
from rbe_cli.errors import UsageError
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.block import TransformerBlock
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.nn.linear import Weight
from rbe_cli.progress import Progress
from rbe_cli.tasks.bench_shape import Op, Shape, byte_count, flop_count
from rbe_cli.tasks.timing import time_in_turn

_LARGEST = 127  # integer of a weight
_WARM_UP_TOKENS = 64

Layer = Callable[[], Float32]


class Variant(StrEnum):
    """Who computes.

    `fused`: the engine's compiled kernels, which multiply by the 8-bit integers as they are.
    `reference`: their obvious numpy twins, which first turn each matrix into float32, in every
    call, and run on as many threads as numpy's own library likes.
    """

    fused = "fused"
    reference = "reference"


@dataclass(frozen=True)
class LayerTiming:
    """One layer, computed one way, under the contract's names.

    Attributes:
        shape: of the input, BATCHxSEQxDIM.
        iterations: calls that the seconds are taken from.
        gflops: 1e9 floating-point operations a second (`flop_count`), at the median.
        gbytes_per_second: 1e9 bytes a second (`byte_count`), at the median.
    """

    op: Op
    variant: Variant
    shape: str
    median_seconds: float
    min_seconds: float
    max_seconds: float
    iterations: int
    gflops: float
    gbytes_per_second: float


def time_layers(
    shapes: Sequence[Shape],
    ops: Sequence[Op],
    kernels: Mapping[Variant, Kernels],
    repeat: int | None,
    progress: Progress,
) -> list[LayerTiming]:
    """Time every op on every shape; all variants take turns on the same weights and input.

    Args:
        shapes: of the inputs.
        ops: what to time.
        kernels: of each variant.
        repeat: calls of each; None as in `time_in_turn`.
        progress: told after each op, and of compilation, which is not timed.

    Raises:
        UsageError: a shape needs more memory than there is.
    """
    for shape in shapes:
        check_memory(shape, Variant.reference in kernels)
    found = []
    for shape in shapes:
        layers = _warm_layers(shape, ops, kernels, progress)
        for index, op in enumerate(ops):
            progress(f"timing {shape}", index, len(ops))
            calls = {variant: layers[variant][op] for variant in kernels}
            for variant, seconds in time_in_turn(calls, repeat).items():
                found.append(_timing(op, variant, shape, seconds))
        progress(f"timing {shape}", len(ops), len(ops))
    return found


def check_memory(shape: Shape, with_reference: bool) -> None:
    """Refuse a shape whose weights and activations would not fit.

    Raises:
        UsageError: naming the shape and the bytes.
    """
    activation = 4 * shape.tokens * shape.dim  # bytes of one [batch, seq, dim] in float32
    square = shape.dim**2
    needed = 12 * square + 16 * activation  # matrices; the residual, qkv, cache, hidden layer
    if with_reference:  # the largest matrix in float32; GELU's and softmax's intermediates
        scores = shape.config().n_head * shape.seq**2
        needed += 20 * square + 16 * activation + 20 * scores
    available = psutil.virtual_memory().available
    if needed > available:
        raise UsageError(
            f"--shape {shape} needs about {needed / 1e9:.1f} GB of memory, "
            f"and {available / 1e9:.1f} GB are available"
        )


def random_tensors(config: Gpt2Config, rng: np.random.Generator) -> dict[str, Weight]:
    """A model's tensors: 8-bit panels for the layers' matrices, zeros for the embeddings."""
    tensors: dict[str, Weight] = {}
    for name, size in tensor_shapes(config).items():
        if is_embedding(name):
            tensors[name] = np.zeros(size[::-1], np.float32)
        elif is_matrix(name):
            tensors[name] = random_panels((size[0], size[1]), rng)
        else:
            tensors[name] = rng.standard_normal(size, np.float32)
    return tensors


def random_panels(shape: tuple[int, int], rng: np.random.Generator) -> PanelMatrix:
    """A matrix `[K, N]` of random 8-bit integers that keeps the scale of its input."""
    rows, columns = shape
    values = rng.integers(1, 256, panel_shape(shape, INT_8.bits), np.uint8)  # -127 to 127
    deviation = np.std(INT_8.levels[1:])
    steps = np.full(columns, 1 / (deviation * math.sqrt(rows)), np.float32)
    return PanelMatrix.of_one_layout(values, INT_8, np.ones(rows, np.float32), steps, shape)


def _warm_layers(
    shape: Shape, ops: Sequence[Op], kernels: Mapping[Variant, Kernels], progress: Progress
) -> dict[Variant, dict[Op, Layer]]:
    """The layers ready to be timed, after a call on a small part of the input."""
    rng = np.random.default_rng(0)
    config = shape.config()
    tensors = random_tensors(config, rng)
    x = rng.standard_normal((shape.batch, shape.seq, shape.dim), np.float32)
    found = {}
    for variant, table in kernels.items():
        block = Gpt2(config, tensors, table).blocks[0]
        small = _layers(block, x[:1, :_WARM_UP_TOKENS], config)
        steps = [small[op] for op in ops]
        if variant is Variant.fused:
            compile_steps("compiling kernels (first run only)", steps, progress)
        else:
            for step in steps:
                step()
        found[variant] = _layers(block, x, config)
    return found


def _layers(block: TransformerBlock, x: Float32, config: Gpt2Config) -> dict[Op, Layer]:
    """A call of each op on `x` `[batch, seq, dim]`."""
    batch, seq, _ = x.shape
    cache = KVCache(config, batch).layers(np.arange(batch), seq)[0]
    return {
        Op.layernorm: partial(block.ln_1, x),
        Op.linear: partial(block.attn.c_proj, x),
        Op.feedforward: partial(block.mlp, x),
        Op.attention: partial(block.attn, x, cache),
        Op.block: partial(block, x, cache),
    }


def _timing(op: Op, variant: Variant, shape: Shape, seconds: Sequence[float]) -> LayerTiming:
    middle = median(seconds)
    return LayerTiming(
        op=op,
        variant=variant,
        shape=str(shape),
        median_seconds=middle,
        min_seconds=min(seconds),
        max_seconds=max(seconds),
        iterations=len(seconds),
        gflops=flop_count(op, shape) / middle / 1e9,
        gbytes_per_second=byte_count(op, shape) / middle / 1e9,
    )
