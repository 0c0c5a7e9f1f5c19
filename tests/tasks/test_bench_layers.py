from dataclasses import astuple, replace

import numpy as np
import pytest

from rbe_cli.errors import UsageError
from rbe_cli.kernels.table import Kernels, load_kernels
from rbe_cli.progress import no_progress
from rbe_cli.tasks.bench_cases import Variant, build_case, random_panels, random_tensors
from rbe_cli.tasks.bench_layers import LayerOptions, check_memory, time_layers
from rbe_cli.tasks.bench_shape import Op, Shape, byte_count, flop_count


@pytest.fixture(scope="module")
def fast() -> Kernels:
    return load_kernels("fast", 1)


@pytest.mark.parametrize("backward", [False, True])
def test_every_op_is_timed_in_every_variant(fast: Kernels, backward: bool) -> None:
    shapes = [Shape(2, 3, 20), Shape(1, 1, 1)]
    stages: list[tuple[str, int, int]] = []
    found = time_layers(
        LayerOptions(shapes, backward=backward, repeat=2),
        fast,
        lambda stage, done, total: stages.append((stage, done, total)),
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
    with pytest.raises(UsageError, match=f"--shape {shape} needs about .* GB of memory"):
        time_layers(options, fast, no_progress)


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
