from dataclasses import astuple

import numpy as np
import pytest

from rbe_cli.errors import UsageError
from rbe_cli.kernels.table import Kernels, load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.progress import no_progress
from rbe_cli.tasks.bench_layers import (
    Variant,
    check_memory,
    random_panels,
    random_tensors,
    time_layers,
)
from rbe_cli.tasks.bench_shape import Op, Shape, byte_count, flop_count


@pytest.fixture(scope="module")
def kernels() -> dict[Variant, Kernels]:
    return {
        Variant.fused: load_kernels("fast", 1),
        Variant.reference: load_kernels("reference"),
    }


def test_every_op_is_timed_in_every_variant(kernels: dict[Variant, Kernels]) -> None:
    shapes = [Shape(2, 3, 20), Shape(1, 1, 1)]
    stages: list[tuple[str, int, int]] = []
    found = time_layers(
        shapes, list(Op), kernels, 2, lambda stage, done, total: stages.append((stage, done, total))
    )
    assert [(timing.shape, timing.op, timing.variant) for timing in found] == [
        (str(shape), op, variant) for shape in shapes for op in Op for variant in Variant
    ]
    for timing in found:
        assert timing.iterations == 2
        assert 0 < timing.min_seconds <= timing.median_seconds <= timing.max_seconds
    for shape in shapes:
        steps = [(done, total) for stage, done, total in stages if stage == f"timing {shape}"]
        assert steps == [(done, 5) for done in range(6)]


def test_rates_belong_to_the_median(kernels: dict[Variant, Kernels]) -> None:
    shape = Shape(1, 4, 8)
    (timing,) = time_layers(
        [shape], [Op.linear], {Variant.fused: kernels[Variant.fused]}, 3, no_progress
    )
    assert timing.gflops * timing.median_seconds * 1e9 == pytest.approx(
        flop_count(Op.linear, shape)
    )
    assert timing.gbytes_per_second * timing.median_seconds * 1e9 == pytest.approx(
        byte_count(Op.linear, shape)
    )


def test_both_variants_compute_the_same(kernels: dict[Variant, Kernels]) -> None:
    shape = Shape(2, 9, 70)
    config = shape.config()
    rng = np.random.default_rng(1)
    tensors = random_tensors(config, rng)
    x = rng.standard_normal(astuple(shape), np.float32)
    outputs = []
    for table in kernels.values():
        block = Gpt2(config, tensors, table).blocks[0]
        cache = KVCache(config, shape.batch).layers(np.arange(shape.batch), shape.seq)[0]
        outputs.append(block(x, cache))
    largest = np.abs(outputs[0]).max()
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=3e-4 * largest)


def test_random_panels_hold_8_bit_integers() -> None:
    found = random_panels((13, 130), np.random.default_rng(0))
    assert (found.unscaled().min(), found.unscaled().max()) == (-127, 127)


def test_random_weights_keep_the_scale_of_their_input() -> None:
    matrix = random_panels((400, 300), np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((50, 400))
    out = x @ (matrix.column_steps * matrix.unscaled())
    assert np.std(out) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("shape", [Shape(1, 1, 10**8), Shape(10**6, 10**6, 1)])
def test_a_shape_that_cannot_fit_is_refused(shape: Shape) -> None:
    with pytest.raises(UsageError, match=f"--shape {shape} needs about .* GB of memory"):
        time_layers([Shape(1, 1, 1), shape], [Op.linear], {}, 1, no_progress)


def test_only_the_reference_needs_memory_for_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 10**9

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    shape = Shape(1, 8192, 64)  # one head; 67 million scores
    check_memory(shape, with_reference=False)
    with pytest.raises(UsageError, match=r"needs about 1\.4 GB of memory, and 1\.0 GB"):
        check_memory(shape, with_reference=True)
