"""Times the layers of a transformer block with random 8-bit weights, computed several ways."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import psutil

from rbe_cli.engine.warm_up import warm_up
from rbe_cli.errors import UsageError
from rbe_cli.kernels.table import Kernels, load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.tasks.bench_cases import Case, Layer, Variant, build_case, random_tensors
from rbe_cli.tasks.bench_shape import Op, Shape, byte_count, flop_count
from rbe_cli.tasks.timing import time_in_turn

_WARM_UP_TOKENS = 64


@dataclass(frozen=True)
class LayerOptions:
    """Which layers to time: every combination.

    Attributes:
        shapes, ops, variants: of them.
        backward: their backward passes, with the gradients of all parameters, instead of
            their forward passes.
        memory_limit: bytes of activations that the block and its feed-forward part may take at
            once; None for all they need.
        repeat: calls of each; None as in `timing.time_in_turn`.
    """

    shapes: Sequence[Shape] = ()
    ops: Sequence[Op] = tuple(Op)
    variants: Sequence[Variant] = tuple(Variant)
    backward: bool = False
    memory_limit: int | None = None
    repeat: int | None = None


@dataclass(frozen=True)
class LayerTiming:
    """One layer, computed one way, under the contract's names.

    Attributes:
        shape: of the input, BATCHxSEQxDIM.
        backward: whether of the backward pass.
        iterations: calls that the seconds are taken from.
        gflops: 1e9 floating-point operations a second (`flop_count`), at the median.
        gbytes_per_second: 1e9 bytes a second (`byte_count`), at the median.
        peak_memory_bytes: of the parameters, and of what a call allocates at most, its output
            included, as measured by tracemalloc.
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
    backward: bool
    peak_memory_bytes: int


def time_layers(options: LayerOptions, fast: Kernels, progress: Progress) -> list[LayerTiming]:
    """Time every op on every shape; all variants take turns on the same weights and input.

    Args:
        options: what to time.
        fast: kernels of all variants but `reference`.
        progress: told after each op, and of compilation, which is not timed.

    Raises:
        UsageError: a shape needs more memory than there is.
    """
    for shape in options.shapes:
        check_memory(shape, options)
    found = []
    for shape in options.shapes:
        cases = _warm_cases(shape, options, fast, progress)
        for index, op in enumerate(options.ops):
            progress(f"timing {shape}", index, len(options.ops))
            calls = {variant: case.calls[op] for variant, case in cases.items()}
            for variant, seconds in time_in_turn(calls, options.repeat).items():
                fast.buffers.clear()
                peak = cases[variant].weight_bytes[op] + _peak_bytes(calls[variant])
                found.append(_timing(op, variant, shape, options.backward, seconds, peak))
        progress(f"timing {shape}", len(options.ops), len(options.ops))
    return found


def check_memory(shape: Shape, options: LayerOptions) -> None:
    """Refuse a shape whose weights and activations would not fit.

    Raises:
        UsageError: naming the shape and the bytes.
    """
    activation = 4 * shape.tokens * shape.dim  # bytes of one [batch, seq, dim] in float32
    square = shape.dim**2
    needed = 12 * square + 16 * activation  # matrices; the residual, qkv, cache, hidden layer
    if Variant.standard in options.variants:
        needed += 48 * square
    if Variant.reference in options.variants or options.backward:
        # The largest matrix in float32; GELU's and softmax's intermediates.
        scores = shape.config().n_head * shape.seq**2
        needed += 20 * square + 16 * activation + 20 * scores
    if options.backward:  # what is saved, and gradients of activations and weights
        needed += len(options.variants) * 16 * activation + 48 * square
    available = psutil.virtual_memory().available
    if needed > available:
        raise UsageError(
            f"--shape {shape} needs about {needed / 1e9:.1f} GB of memory, "
            f"and {available / 1e9:.1f} GB are available"
        )


def _warm_cases(
    shape: Shape, options: LayerOptions, fast: Kernels, progress: Progress
) -> dict[Variant, Case]:
    """The calls to be timed, after one of each on a small part of the input."""
    rng = np.random.default_rng(0)
    config = shape.config()
    tensors = random_tensors(config, rng)
    x = rng.standard_normal((shape.batch, shape.seq, shape.dim), np.float32)
    if set(options.variants) != {Variant.reference}:
        warm_up(Gpt2(config, tensors, fast), progress)
    found = {}
    for variant in options.variants:
        kernels = load_kernels("reference") if variant is Variant.reference else fast
        for given in (x[:1, :_WARM_UP_TOKENS], x):
            case = build_case(
                shape, tensors, given, variant, kernels,
                backward=options.backward, memory_limit=options.memory_limit,
            )  # fmt: skip
            if given is not x:
                for op in options.ops:
                    case.calls[op]()
        found[variant] = case
    return found


def _peak_bytes(call: Layer) -> int:
    """What a call allocates at most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _timing(
    op: Op, variant: Variant, shape: Shape, backward: bool, seconds: Sequence[float], peak: int
) -> LayerTiming:
    middle = median(seconds)
    return LayerTiming(
        op=op,
        variant=variant,
        shape=str(shape),
        median_seconds=middle,
        min_seconds=min(seconds),
        max_seconds=max(seconds),
        iterations=len(seconds),
        gflops=flop_count(op, shape, backward) / middle / 1e9,
        gbytes_per_second=byte_count(op, shape, backward) / middle / 1e9,
        backward=backward,
        peak_memory_bytes=peak,
    )
