from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from rbe_cli.bench import operators
from rbe_cli.bench.operator_cases import build_case, random_panels, random_tensors
from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operator_shapes import Shape, byte_count, flop_count
from rbe_cli.bench.operators import (
    LayerOptions,
    LayerTiming,
    LeftOut,
    check_memory,
    time_layers,
)
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.progress import no_progress


@pytest.fixture(scope="module")
def fast() -> Kernels:
    return load_kernels("fast", 1)


@pytest.mark.parametrize("backward", [False, True])
def test_every_op_is_timed_in_every_variant(fast: Kernels, backward: bool) -> None:
    shapes = [Shape(2, 3, 20), Shape(1, 1, 1)]
    stages: list[tuple[str, int, int]] = []
    found = list(
        time_layers(
            LayerOptions(shapes, backward=backward, repeat=2),
            fast,
            lambda stage, done, total: stages.append((stage, done, total)),
        )
    )
    assert [(timing.shape, timing.op, timing.variant) for timing in found] == [
        (str(shape), op, variant) for shape in shapes for op in Op for variant in Variant
    ]
    for timing in found:
        assert timing.backward == backward
        assert timing.iterations == 2
        assert 0 < timing.min_seconds <= timing.median_seconds <= timing.max_seconds
        assert timing.peak_memory_bytes > 0
    for shape in shapes:
        steps = [(done, total) for stage, done, total in stages if stage == f"timing {shape}"]
        assert steps == [(done, 5) for done in range(6)]


@pytest.mark.parametrize("backward", [False, True])
def test_rates_belong_to_the_median(fast: Kernels, backward: bool) -> None:
    shape = Shape(1, 4, 8)
    options = LayerOptions([shape], [Op.linear], [Variant.fused], backward, repeat=3)
    (timing,) = time_layers(options, fast, no_progress)
    assert timing.gflops * timing.median_seconds * 1e9 == pytest.approx(
        flop_count(Op.linear, shape, backward)
    )
    assert timing.gbytes_per_second * timing.median_seconds * 1e9 == pytest.approx(
        byte_count(Op.linear, shape, backward)
    )


@pytest.mark.parametrize("backward", [False, True])
def test_all_variants_compute_the_same(fast: Kernels, backward: bool) -> None:
    shape = Shape(2, 9, 70)
    rng = np.random.default_rng(1)
    tensors = random_tensors(shape.config(), rng)
    x = rng.standard_normal(astuple(shape), np.float32)
    outputs = {}
    for variant in Variant:
        table = load_kernels("reference") if variant is Variant.reference else fast
        case = build_case(shape, tensors, x, variant, table, backward=backward, memory_limit=None)
        outputs[variant] = {op: call().astype(np.float64) for op, call in case.calls.items()}
    for variant, found in outputs.items():
        tolerance = 1e-2 if variant is Variant.mixed else 3e-4
        for op, own in found.items():
            expected = outputs[Variant.reference][op]
            error = np.abs(own - expected).max() / np.abs(expected).max()
            assert error < tolerance, (op, variant)


def test_memory_is_that_of_weights_and_activations(fast: Kernels) -> None:
    """Of a block: in 8 bits and under a limit far less than in float32 and without."""
    shape = Shape(32, 40, 128)
    options = LayerOptions([shape], [Op.block], [Variant.fused, Variant.standard], repeat=1)
    fused, standard = time_layers(options, fast, no_progress)
    activation, weights = 4 * 32 * 40 * 128, 12 * 128 * 128
    assert 4 * weights + 5 * activation < standard.peak_memory_bytes
    assert standard.peak_memory_bytes < 4 * weights + 15 * activation
    assert fused.peak_memory_bytes < standard.peak_memory_bytes
    limited = replace(options, memory_limit=1_000_000, variants=[Variant.fused])
    (least,) = time_layers(limited, fast, no_progress)
    assert least.peak_memory_bytes < 1.2 * weights + activation + 1_000_000


def test_random_panels_hold_8_bit_integers() -> None:
    found = random_panels((13, 130), np.random.default_rng(0))
    assert (found.unscaled().min(), found.unscaled().max()) == (-127, 127)


def test_random_weights_keep_the_scale_of_their_input() -> None:
    matrix = random_panels((400, 300), np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((50, 400))
    out = x @ (matrix.column_steps * matrix.unscaled())
    assert np.std(out) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("shape", [Shape(1, 1, 10**8), Shape(10**6, 10**6, 1)])
def test_a_shape_that_cannot_fit_is_refused(fast: Kernels, shape: Shape) -> None:
    options = LayerOptions([Shape(1, 1, 1), shape], [Op.linear], [Variant.fused], repeat=1)
    with pytest.raises(UsageError, match=f"`shape` {shape} needs about .* GB of memory"):
        list(time_layers(options, fast, no_progress))


def test_only_some_need_memory_for_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 10**9

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    shape = Shape(1, 8192, 64)  # one head; 67 million scores
    check_memory(shape, LayerOptions(variants=[Variant.fused, Variant.standard]))
    for options in (
        LayerOptions(variants=[Variant.reference]),
        LayerOptions(variants=[Variant.fused], backward=True),
    ):
        with pytest.raises(UsageError, match=r"needs about 1\.4 GB of memory, and 1\.0 GB"):
            check_memory(shape, options)


# A limited time


class Clock:
    """Seconds that pass only while a layer is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every layer takes its floating-point operations at 1 a microsecond; building is free."""
    clock = Clock()
    for module in ("operators", "time_budget", "timing"):
        monkeypatch.setattr(f"rbe_cli.bench.{module}.perf_counter", clock)

    def warm_call(self: operators._Cases, variant: Variant, op: Op) -> Callable[[], Any]:
        def call() -> Any:
            clock.now += flop_count(op, self._shape) / 1e6
            return None

        return call

    monkeypatch.setattr(operators._Cases, "warm_call", warm_call)
    return clock


def test_what_does_not_fit_the_time_is_left_out(fast: Kernels, clock: Clock) -> None:
    shapes = [Shape(1, 64, size) for size in (64, 256, 512)]
    whole = sum(flop_count(op, shape) / 1e6 for op in Op for shape in shapes)
    options = LayerOptions(shapes, variants=[Variant.fused, Variant.mixed], seconds=whole)
    found = list(time_layers(options, fast, no_progress))
    assert clock.now <= 1.1 * whole
    assert len(found) == 3 * 5 * 2
    left_out = [row for row in found if isinstance(row, LeftOut)]
    timed = [row for row in found if isinstance(row, LayerTiming)]
    assert {row.shape for row in timed} == {str(shape) for shape in shapes}  # something of each
    assert {row.op for row in timed if row.shape == "1x64x64"} == set(Op)
    assert (Op.block, "1x64x512") in {(row.op, row.shape) for row in left_out}
    assert {row.reason for row in left_out} == {"time"}
    for row in timed:
        assert row.iterations >= 1
        assert row.median_seconds == pytest.approx(flop_count(row.op, shape_of(row)) / 1e6)


def shape_of(row: LayerTiming) -> Shape:
    return Shape.parse(row.shape)


def test_with_time_enough_nothing_is_left_out(fast: Kernels, clock: Clock) -> None:
    options = LayerOptions([Shape(1, 64, 8)], variants=[Variant.fused], seconds=60)
    found = list(time_layers(options, fast, no_progress))
    assert [type(row) for row in found] == [LayerTiming] * 5
    assert all(row.iterations >= 3 for row in found if isinstance(row, LayerTiming))


def test_a_shape_without_memory_is_left_out_where_time_is_limited(
    fast: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = Shape(10**6, 10**6, 1)
    options = LayerOptions([huge, Shape(1, 2, 8)], [Op.linear], [Variant.fused], seconds=60)
    first, second = time_layers(options, fast, no_progress)
    assert first == LeftOut(Op.linear, Variant.fused, str(huge), "memory")
    assert isinstance(second, LayerTiming)


def test_rows_come_as_they_are_timed(fast: Kernels) -> None:
    options = LayerOptions([Shape(1, 2, 8)], variants=[Variant.fused], repeat=1)
    stages: list[int] = []
    rows = time_layers(options, fast, lambda stage, done, total: stages.append(done))
    assert isinstance(first := next(rows), LayerTiming)
    assert (first.op, stages[-1]) == (Op.layernorm, 0)
    next(rows)
    assert stages[-1] == 1


@pytest.mark.parametrize("takes_int8", [False, True])
def test_inputs_are_rounded_to_as_many_bits_as_asked(fast: Kernels, takes_int8: bool) -> None:
    seen = []

    def matmul(*arguments: Any, takes_int8: bool = False) -> None:
        seen.append(takes_int8)
        fast.matmul(*arguments, takes_int8=takes_int8)

    options = LayerOptions([Shape(1, 2, 8)], [Op.linear], [Variant.fused], repeat=1)
    options = replace(options, takes_int8=takes_int8)
    (timing,) = time_layers(options, replace(fast, matmul=matmul), no_progress)
    assert timing.iterations == 1
    assert set(seen) == {takes_int8}
