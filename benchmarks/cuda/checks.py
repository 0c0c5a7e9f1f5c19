"""Compare each kernel with plain numpy in float64, and tell how far it is off."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import cuda

from benchmarks.cuda.random_matrices import random_panels, random_trellis
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_layer_norm import layer_norm, layer_norm_backward
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.fused_feed_forward import DeviceFeedForward
from rbe_cli.cuda.paged_attention import Place, attend
from rbe_cli.errors import UsageError
from rbe_cli.kernels import numpy_twins
from rbe_cli.model.config import Gpt2Config
from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, INT_8
from rbe_cli.weights.panel_matrix import PanelMatrix

EPS = 1e-5
RandomMatrix = Callable[[np.random.Generator, tuple[int, int]], PanelMatrix]
MATRICES: dict[str, RandomMatrix] = {
    "2 bits": partial(random_panels, layout=EVEN_2),
    "4 bits": partial(random_panels, layout=BENT_4),
    "8 bits": partial(random_panels, layout=INT_8),
    "trellis": random_trellis,
}
"""Make a random matrix `[K, N]` in each form that kernels multiply by."""


@dataclass(frozen=True)
class Check:
    """Hold the outcome of a check.

    Attributes:
        name: of what was checked.
        error: largest difference, relative to the largest expected value; NaN where the kernel
            left an output unwritten.
        limit: largest error that passes.
    """

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def all_checks(
    rng: np.random.Generator, tokens: int, width: int, wider: Sequence[int] = ()
) -> Iterator[Check]:
    """Check every kernel.

    Args:
        rng: makes the inputs.
        tokens, width: of the inputs; width is a multiple of 2.
        wider: more widths of LayerNorm, where blocks have other numbers of threads.
    """
    for own in (width, *wider):
        yield from _layer_norms(rng, tokens, own)
    for form, matrix in MATRICES.items():
        for count in (1, tokens):
            yield _feed_forward(rng, count, width, form, matrix)
    yield _attention(rng, tokens, width)
    yield _refusals()


def poisoned(shape: tuple[int, ...], kind: Any = np.float32) -> Any:
    """Return an array of NaN on the device."""
    return cuda.to_device(np.full(shape, np.nan, kind))


def _check(name: str, found: Any, expected: Any, limit: float) -> Check:
    difference = np.abs(found.copy_to_host().astype(np.float64) - expected)
    return Check(name, float(difference.max() / np.abs(expected).max()), limit)


def _layer_norms(rng: np.random.Generator, tokens: int, width: int) -> Iterator[Check]:
    x = rng.standard_normal((tokens, width), np.float32) + 100
    gamma, beta = rng.standard_normal((2, width), np.float32)
    grad = rng.standard_normal((tokens, width), np.float32)
    there, gamma_there, beta_there = map(cuda.to_device, (x, gamma, beta))
    out, statistics = poisoned(x.shape), poisoned((tokens, 2), np.float64)
    layer_norm(there, gamma_there, beta_there, EPS, out, statistics)
    expected, known = np.empty(x.shape), np.empty((tokens, 2))
    numpy_twins.layer_norm(x.astype(np.float64), gamma, beta, EPS, expected, known)
    yield _check(f"layer_norm {width}", out, expected, 1e-5)
    yield _check(f"layer_norm {width} statistics", statistics, known, 1e-6)
    halves, out = x.astype(np.float16), poisoned(x.shape, np.float16)
    layer_norm(cuda.to_device(halves), gamma_there, beta_there, EPS, out)
    numpy_twins.layer_norm(halves.astype(np.float64), gamma, beta, EPS, expected)
    yield _check(f"layer_norm {width} float16", out, expected, 1e-3)
    found = poisoned(x.shape), poisoned((width,)), poisoned((width,))
    layer_norm_backward(there, statistics, gamma_there, cuda.to_device(grad), *found)
    sums = numpy_twins.layer_norm_backward(
        x.astype(np.float64), known, gamma, grad.astype(np.float64), expected
    )
    for name, own, wanted in zip(("x", "gamma", "beta"), found, (expected, *sums), strict=True):
        yield _check(f"layer_norm {width} gradient of {name}", own, wanted, 1e-4)
    halves, grads = x.astype(np.float16), grad.astype(np.float16)
    found = poisoned(x.shape, np.float16), poisoned((width,)), poisoned((width,))
    layer_norm_backward(*map(cuda.to_device, (halves, known, gamma, grads)), *found)
    sums = numpy_twins.layer_norm_backward(
        halves.astype(np.float64), known, gamma, grads.astype(np.float64), expected
    )
    for name, own, wanted in zip(("x", "gamma", "beta"), found, (expected, *sums), strict=True):
        limit = 2e-3 if name == "x" else 1e-4
        yield _check(f"layer_norm {width} gradient of {name}, float16", own, wanted, limit)


def _feed_forward(
    rng: np.random.Generator, tokens: int, width: int, form: str, matrix: RandomMatrix
) -> Check:
    inner = 2 * width
    first, second = matrix(rng, (width, inner)), matrix(rng, (inner, width))
    x = rng.standard_normal((tokens, width), np.float32)
    fc_bias, proj_bias = (rng.standard_normal(n, np.float32) for n in (inner, width))
    out = poisoned(x.shape)
    part = DeviceFeedForward(
        on_device(first), cuda.to_device(fc_bias), on_device(second), cuda.to_device(proj_bias),
        "gelu_new",
    )  # fmt: skip
    part(cuda.to_device(x), out)
    hidden, expected = np.empty((tokens, inner)), np.empty((tokens, width))
    numpy_twins.matmul(x.astype(np.float64), first, fc_bias, hidden, activation="gelu_new")
    numpy_twins.matmul(hidden, second, proj_bias, expected)
    return _check(f"feed_forward {form}, {tokens} tokens", out, expected, 1e-3)


def _attention(rng: np.random.Generator, tokens: int, width: int) -> Check:
    config = Gpt2Config(
        vocab_size=1, n_positions=tokens, n_embd=width, n_layer=1, n_head=2, n_inner=1
    )
    cache = DeviceCache(config, 1, "fp32")
    cache.reserve(0, tokens)
    qkv, out = rng.standard_normal((tokens, 3 * width), np.float32), poisoned((tokens, width))
    start = np.zeros(1, np.int64)
    place = Place(cache, np.zeros(tokens, np.int64), np.arange(tokens))
    attend(cache, 0, cuda.to_device(qkv), place, config.score_scale(0), out)
    keys, values = np.zeros((2, 1, 2, tokens, config.head_dim))
    expected = np.empty((1, tokens, width))
    numpy_twins.attention(
        qkv[None].astype(np.float64), keys, values, start, start, config.score_scale(0), expected
    )
    return _check("attention", out, expected[0], 1e-4)


def _refusals() -> Check:
    """Count the wrong arguments that are not refused."""
    rows, vector = poisoned((2, 4)), poisoned((4,))
    config = Gpt2Config(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1, n_inner=1)
    calls: list[Callable[[], object]] = [
        lambda: layer_norm(vector, vector, vector, EPS, vector),
        lambda: layer_norm(rows, poisoned((3,)), vector, EPS, rows),
        lambda: layer_norm_backward(rows, rows, vector, rows, rows, vector, vector),
        lambda: on_device(np.ones((3, 4), np.float32)).multiply(rows, rows),
        lambda: DeviceCache(config, 1, "int8"),
    ]
    return Check("wrong arguments that are not refused", sum(map(_is_accepted, calls)), 0)


def _is_accepted(call: Callable[[], object]) -> bool:
    try:
        call()
    except UsageError:
        return False
    return True
