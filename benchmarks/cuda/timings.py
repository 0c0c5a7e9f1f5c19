"""Time LayerNorm, feed-forward and a whole model on a GPU, beside a copy and torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numba import cuda

from benchmarks.cuda.checks import EPS, MATRICES
from benchmarks.cuda.random_matrices import random_panels
from rbe_cli.bench.operator_shapes import DEFAULT_SHAPES, Shape
from rbe_cli.cuda.cuda_session import CudaSession
from rbe_cli.cuda.device_layer_norm import layer_norm
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.fused_feed_forward import DeviceFeedForward
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_matrix, tensor_shapes
from rbe_cli.weights.panel_layout import BENT_4
from rbe_cli.weights.weight_forms import Weight

_ROTATED_BYTES = 256_000_000  # more than a GPU's cache
_CALLS = 50
_DELAYING_COPIES = 16  # some milliseconds
_PROMPT_TOKENS, _NEW_TOKENS = 512, 128
_GPT2 = Gpt2Config(
    vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=3072
)


@dataclass(frozen=True)
class Timing:
    """Hold a median.

    Attributes:
        name: of what was timed.
        seconds: of a call.
        gbytes_per_second: 1e9 bytes that have to be read and written, a second; None if unknown.
        tokens_per_second: None but for whole models.
    """

    name: str
    seconds: float
    gbytes_per_second: float | None = None
    tokens_per_second: float | None = None


def all_timings() -> Iterator[Timing]:
    """Time everything; a few minutes."""
    rng = np.random.default_rng(0)
    for shape in DEFAULT_SHAPES:
        for kind in (np.float32, np.float16):
            yield from _layer_norms(rng, shape, np.dtype(kind))
        for form in ("4 bits", "8 bits", "trellis"):
            yield from _feed_forward(rng, shape.dim, (1, shape.tokens), form)
        if _has_torch():
            for tokens in (1, shape.tokens):
                yield _torch_feed_forward(shape.dim, tokens)
    yield from _model(rng)


def _has_torch() -> bool:
    """Return whether torch is installed, and finds the GPU."""
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class _Delay:
    """Keep the GPU busy, so that the launches of a call are queued before the first of them runs.

    Otherwise the time between two events would be that of Python's launches.
    """

    def __init__(self) -> None:
        self._from, self._to = (cuda.device_array(_ROTATED_BYTES, np.uint8) for _ in range(2))

    def __call__(self) -> None:
        for _ in range(_DELAYING_COPIES):
            self._to.copy_to_device(self._from)


def _timed(name: str, calls: list[Callable[[], object]], moved: int) -> Timing:
    """Return the median of calls by events; they take turns, each on memory of its own."""
    for call in calls:
        call()  # compiles
    delay, seconds = _Delay(), []
    for number in range(_CALLS):
        start, end = cuda.event(), cuda.event()
        delay()
        start.record()
        calls[number % len(calls)]()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    middle = median(seconds)
    return Timing(name, middle, moved / middle / 1e9)


def _layer_norms(rng: np.random.Generator, shape: Shape, kind: Any) -> Iterator[Timing]:
    size = (shape.tokens, shape.dim)
    moved = 2 * shape.tokens * shape.dim * kind.itemsize
    x = rng.standard_normal(size, np.float32).astype(kind)
    pairs = [
        (cuda.to_device(x), cuda.device_array(size, kind))
        for _ in range(-(-_ROTATED_BYTES // moved))
    ]
    gamma, beta = (cuda.to_device(rng.standard_normal(shape.dim, np.float32)) for _ in range(2))
    name = f"{shape} {kind}"
    copies = [lambda a=a, b=b: b.copy_to_device(a) for a, b in pairs]
    yield _timed(f"copy {name}", copies, moved)
    norms = [lambda a=a, b=b: layer_norm(a, gamma, beta, EPS, b) for a, b in pairs]
    yield _timed(f"layer_norm {name}", norms, moved)
    if _has_torch():
        import torch

        given = [torch.as_tensor(a, device="cuda") for a, _ in pairs]
        weight, bias = (torch.as_tensor(v, device="cuda").to(given[0].dtype) for v in (gamma, beta))
        normed = torch.nn.functional.layer_norm
        calls = [lambda a=a: normed(a, (shape.dim,), weight, bias, EPS) for a in given]
        yield _timed(f"torch layer_norm {name}", calls, moved)


def _feed_forward(
    rng: np.random.Generator, width: int, counts: Sequence[int], form: str
) -> Iterator[Timing]:
    """Time the feed-forward part of so many tokens; of one token, its weights are what is read."""
    inner = 4 * width
    weights = [MATRICES[form](rng, shape) for shape in ((width, inner), (inner, width))]
    read = sum(own.nbytes for own in weights)
    zeros = [cuda.to_device(np.zeros(n, np.float32)) for n in (inner, width)]
    parts = []
    for _ in range(-(-_ROTATED_BYTES // read)):
        first, second = map(on_device, weights)
        parts.append(DeviceFeedForward(first, zeros[0], second, zeros[1], "gelu_new"))
    for tokens in counts:
        x = cuda.to_device(rng.standard_normal((tokens, width), np.float32))
        out = cuda.device_array((tokens, width), np.float32)
        calls = [partial(part, x, out) for part in parts]
        yield _timed(f"feed_forward {width} {form}, {tokens} tokens", calls, read)


def _torch_feed_forward(width: int, tokens: int) -> Timing:
    """Time the feed-forward part in eager torch, with weights and activations in float16."""
    import torch

    inner, options = 4 * width, {"device": "cuda", "dtype": torch.float16}
    read = 2 * 2 * width * inner
    x = torch.randn(tokens, width, **options)
    zeros = [torch.zeros(n, **options) for n in (inner, width)]
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
    calls: list[Callable[[], object]] = []
    for _ in range(-(-_ROTATED_BYTES // read)):
        first = torch.randn(inner, width, **options)  # [outputs, inputs]
        second = torch.randn(width, inner, **options)
        calls.append(
            lambda first=first, second=second: linear(  # type: ignore[misc]
                gelu(linear(x, first, zeros[0]), approximate="tanh"), second, zeros[1]
            )
        )
    return _timed(f"torch feed_forward {width} float16, {tokens} tokens", calls, read)


def _model(rng: np.random.Generator) -> Iterator[Timing]:
    """Time a model of 124M parameters with random weights of 4 bits."""
    weights: dict[str, Weight] = {}
    for name, size in tensor_shapes(_GPT2).items():
        shape = (size[::-1] if is_embedding(name) else size)[:2]
        if is_matrix(name):
            weights[name] = random_panels(rng, (shape[0], shape[1]), BENT_4)
        else:
            weights[name] = np.zeros(size, np.float32)
    session = CudaSession(LoadedModel(_GPT2, weights))
    prompt, count = rng.integers(0, _GPT2.vocab_size, _PROMPT_TOKENS), _NEW_TOKENS
    session.prefill(0, prompt)  # compiles
    session.decode([0], prompt[:1])
    for name, tokens in (("prefill", prompt.size), ("decode", count)):
        seconds = []
        for _ in range(3):
            session.truncate(0, 0 if name == "prefill" else prompt.size)
            start = perf_counter()
            if name == "prefill":
                session.prefill(0, prompt)
            else:
                for token in prompt[:count, None]:
                    session.decode([0], token)
            seconds.append(perf_counter() - start)
        middle = median(seconds)
        yield Timing(f"{name} of 124M, 4 bits", middle, None, tokens / middle)
