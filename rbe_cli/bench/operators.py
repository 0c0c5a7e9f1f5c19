"""Time the layers of a transformer block with random 8-bit weights, computed several ways."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from time import perf_counter
from typing import Literal

import numpy as np
import psutil

from rbe_cli.bench.operator_cases import Case, LayerCall, build_case, held, random_tensors
from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operator_shapes import Shape, byte_count, flop_count
from rbe_cli.bench.time_budget import Budget
from rbe_cli.bench.timing import MOST_SECONDS, time_in_turn
from rbe_cli.choices import Backend
from rbe_cli.engine.warm_up import warm_up
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels, load_kernels, with_int8_inputs
from rbe_cli.memory_needs import memory_for
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.weight_forms import Weight

_WARM_UP_TOKENS = 64
_MANY_TOKENS = 5  # which a GPU multiplies with other kernels than a single one
_LEAST_CALLS = 2  # of a layer: one is timed, another one's memory is measured


@dataclass(frozen=True)
class LayerOptions:
    """Say which layers to time: every combination.

    Attributes:
        shapes, ops, variants: what to combine.
        backward: their backward passes, with the gradients of all parameters, instead of
            their forward passes.
        memory_limit: bytes of activations that the block and its feed-forward part may take at
            once; None for all they need.
        repeat: calls of each; None as in `timing.time_in_turn`.
        seconds: time that all may take together, each shape an equal part of what is left. Layers
            that would take longer are left out. None for as long as it takes.
        takes_int8: whether inputs of products with 8-bit weights are rounded to 8 bits, not 16.
        backend: what computes; it supports all that was chosen (`check_supported`).
    """

    shapes: Sequence[Shape] = ()
    ops: Sequence[Op] = tuple(Op)
    variants: Sequence[Variant] = tuple(Variant)
    backward: bool = False
    memory_limit: int | None = None
    repeat: int | None = None
    seconds: float | None = None
    takes_int8: bool = False
    backend: Backend = "cpu"


@dataclass(frozen=True)
class LayerTiming:
    """Describe one layer, computed one way, in the fields of docs/json.md.

    Attributes:
        shape: shape of the input, BATCHxSEQxDIM.
        backward: whether the backward pass was timed.
        iterations: number of calls that were timed.
        gflops: 1e9 floating-point operations a second (`flop_count`), at the median.
        gbytes_per_second: 1e9 bytes a second (`byte_count`), at the median.
        peak_memory_bytes: bytes of the parameters, and of the most that a call has in use at
            once, its output included: measured by tracemalloc, or on a GPU counted.
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


Reason = Literal["time", "memory"]


@dataclass(frozen=True)
class LeftOut:
    """Name a layer that was not timed, because there was too little `time` or `memory`."""

    op: Op
    variant: Variant
    shape: str
    reason: Reason


def time_layers(
    options: LayerOptions, fast: Kernels, progress: Progress
) -> Iterator[LayerTiming | LeftOut]:
    """Time every op on every shape; all variants take turns on the same weights and input.

    Neither compilation nor a first call on a part of the input is timed. Results come as soon
    as they are there.

    Args:
        options: the layers to time.
        fast: kernels of all variants but `reference`.
        progress: told after each op, and of compilation.

    Raises:
        UsageError: a shape needs more memory than there is; with `options.seconds` it is left
            out instead.
    """
    fitting = []
    for shape in options.shapes:
        try:
            check_memory(shape, options)
            fitting.append(shape)
        except UsageError:
            if options.seconds is None:
                raise
    if options.takes_int8:
        fast = with_int8_inputs(fast)
    if options.shapes:
        _compile(options, fast, progress)
    budget = Budget(options.seconds)
    for number, shape in enumerate(options.shapes):
        if shape in fitting:
            end = perf_counter() + budget.left(len(options.shapes) - number)
            with memory_for(f"to time the shape {shape}", _needed_bytes(shape, options)):
                yield from _time_shape(shape, options, fast, budget, end, progress)
        else:
            yield from _all_left_out(shape, options, "memory")


def _compile(options: LayerOptions, fast: Kernels, progress: Progress) -> None:
    """Make sure that nothing is compiled later; the programs are the same for every shape."""
    if options.backend == "cuda":
        for tokens in (1, _MANY_TOKENS):
            cases = _Cases(Shape(1, tokens, 1), options, fast)
            for variant, op in product(options.variants, options.ops):
                cases.warm_call(variant, op)
    elif set(options.variants) != {Variant.reference}:
        warm_up(fast, progress)


def _all_left_out(shape: Shape, options: LayerOptions, reason: Reason) -> Iterator[LeftOut]:
    for op in options.ops:
        for variant in options.variants:
            yield LeftOut(op, variant, str(shape), reason)


def _time_shape(
    shape: Shape,
    options: LayerOptions,
    fast: Kernels,
    budget: Budget,
    end: float,
    progress: Progress,
) -> Iterator[LayerTiming | LeftOut]:
    """Time the ops on one shape, until the clock shows `end`."""
    weights = parameter_count(shape.config())
    if budget.forecast_making(weights) > end - perf_counter():
        yield from _all_left_out(shape, options, "time")
        return
    start = perf_counter()
    cases = _Cases(shape, options, fast)
    budget.learn_making(weights, perf_counter() - start)
    for index, op in enumerate(options.ops):
        progress(f"timing {shape}", index, len(options.ops))
        flops = flop_count(op, shape, options.backward)
        left = end - perf_counter()
        variants, needed = [], 0.0
        for variant in options.variants:
            needed += _LEAST_CALLS * budget.forecast(op, variant, flops)
            if needed > left or left < 0:
                yield LeftOut(op, variant, str(shape), "time")
            else:
                variants.append(variant)
        if not variants:
            continue
        calls = {variant: cases.warm_call(variant, op) for variant in variants}
        rows_left = len(variants) * (len(options.ops) - index)
        most = min(MOST_SECONDS, (end - perf_counter()) / rows_left)
        for variant, seconds in time_in_turn(calls, options.repeat, most).items():
            peak = cases.peak_bytes(variant, op)
            budget.learn(op, variant, flops, median(seconds))
            yield _timing(op, variant, shape, options.backward, seconds, peak)
    progress(f"timing {shape}", len(options.ops), len(options.ops))


def check_memory(shape: Shape, options: LayerOptions) -> None:
    """Refuse a shape whose weights and activations would not fit.

    Raises:
        UsageError: naming the shape and the bytes.
    """
    needed = _needed_bytes(shape, options)
    available: dict[str, float] = {"": psutil.virtual_memory().available}
    if options.backend == "cuda":
        from rbe_cli.cuda.device import free_bytes

        available[" on the GPU"] = free_bytes()
    for where, size in available.items():
        if needed > size:
            raise UsageError(
                f"`shape` {shape} needs about {needed / 1e9:.1f} GB of memory{where}, "
                f"and {size / 1e9:.1f} GB are available"
            )


def _needed_bytes(shape: Shape, options: LayerOptions) -> int:
    """Return about the bytes that weights and activations of a shape take."""
    activation = 4 * shape.tokens * shape.dim  # bytes of one [batch, seq, dim] in float32
    square = shape.dim**2
    needed = 12 * square + 16 * activation  # matrices; the residual, qkv, cache, hidden layer
    if Variant.standard in options.variants:
        needed += 48 * square
    if options.backend == "cuda":
        return needed
    if Variant.reference in options.variants or options.backward:
        # The largest matrix in float32; GELU's and softmax's intermediates.
        scores = shape.config().n_head * shape.seq**2
        needed += 20 * square + 16 * activation + 20 * scores
    if options.backward:  # what is saved, and gradients of activations and weights
        needed += len(options.variants) * 16 * activation + 48 * square
    return needed


class _Cases:
    """Hold the layers of one shape; each variant is built when it is first needed."""

    def __init__(self, shape: Shape, options: LayerOptions, fast: Kernels) -> None:
        rng = np.random.default_rng(0)
        self._shape, self._options, self._fast = shape, options, fast
        self._tensors = random_tensors(shape.config(), rng)
        self._x = rng.standard_normal((shape.batch, shape.seq, shape.dim), np.float32)
        # On the part of the input that warms up (on a GPU, all of it), and on all.
        self._built: dict[Variant, tuple[Case, Case]] = {}

    def warm_call(self, variant: Variant, op: Op) -> LayerCall:
        """Return the call to be timed, after one that warms up."""
        part, whole = self._case(variant)
        part.calls[op]()
        return whole.calls[op]

    def peak_bytes(self, variant: Variant, op: Op) -> int:
        """Return the bytes of the op's parameters and of the most that a call has in use."""
        _, whole = self._case(variant)
        return whole.weight_bytes[op] + whole.call_bytes(op)

    def _case(self, variant: Variant) -> tuple[Case, Case]:
        if variant not in self._built:
            tensors = held(self._tensors, variant)  # shared by the two
            whole = part = self._build(variant, tensors, self._x)
            if self._options.backend == "cpu":
                part = self._build(variant, tensors, self._x[:1, :_WARM_UP_TOKENS])
            self._built[variant] = part, whole
        return self._built[variant]

    def _build(self, variant: Variant, tensors: dict[str, Weight], x: Float32) -> Case:
        options = self._options
        if options.backend == "cuda":
            from rbe_cli.bench.device_cases import build_device_case

            return build_device_case(self._shape, tensors, x, backward=options.backward)
        kernels = load_kernels("reference") if variant is Variant.reference else self._fast
        return build_case(
            self._shape, tensors, x, variant, kernels,
            backward=options.backward, memory_limit=options.memory_limit,
        )  # fmt: skip


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
