"""Choose the kernels, once, when a model is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rbe_cli.choices import Engine
from rbe_cli.model.config import Activation
from rbe_cli.runtime.arrays import Floating
from rbe_cli.runtime.buffer_pool import BufferPool

if TYPE_CHECKING:
    from rbe_cli.runtime.thread_team import Team


@dataclass(frozen=True)
class Kernels:
    """Hold the functions that compute a model, as `rbe_cli.kernels.numpy_twins` describes them.

    Attributes:
        engine: the name they were loaded by. `fast` computes in float32, `reference` in the
            type of its input.
        matmul: (x, matrix, bias, out, norm, activation), of a matrix in panels.
        product: (a, b, out), of dense matrices; returns `out`, or a new array for None.
        layer_norm: (x, gamma, beta, eps, out, statistics).
        layer_norm_standard: the same in separate passes over all rows.
        layer_norm_backward: (x, statistics, gamma, grad, out), returns those of gamma and beta.
        attention: (qkv, keys, values, rows, starts, scale, out, mask, weights).
        attention_backward: (qkv, heads, scale, grad, out, mask), of whole sequences.
        activate: (name, x), in place.
        activate_backward: (name, x, grad), grad times the derivative at x, in place.
        team: the threads of the compiled programs; None leaves it to numpy.
        buffers: memory for what lies between layers.
    """

    engine: Engine
    matmul: Callable[..., None]
    product: Callable[..., Floating]
    layer_norm: Callable[..., None]
    layer_norm_standard: Callable[..., None]
    layer_norm_backward: Callable[..., tuple[Floating, Floating]]
    attention: Callable[..., None]
    attention_backward: Callable[..., None]
    activate: Callable[[Activation, Floating], None]
    activate_backward: Callable[[Activation, Floating, Floating], None]
    team: "Team | None"
    buffers: BufferPool = field(default_factory=BufferPool)

    @property
    def threads(self) -> int | None:
        """Return how many threads compute at most; None leaves it to numpy."""
        return self.team.threads if self.team else None


def load_kernels(engine: Engine, threads: int | None = None) -> Kernels:
    """Return the kernels of an engine: `fast` is compiled, `reference` is numpy without Numba.

    Args:
        engine: the kernels to load.
        threads: threads of `fast`; None for the physical cores this process may use.

    Raises:
        UsageError: `threads` is below 1.
    """
    return _fast(threads) if engine == "fast" else _reference()


def with_int8_inputs(kernels: Kernels) -> Kernels:
    """Return `fast` kernels whose products round their inputs to 8 bits instead of 16."""
    return replace(kernels, matmul=partial(kernels.matmul, takes_int8=True))


def _fast(threads: int | None) -> Kernels:
    from rbe_cli.kernels.activations import activation_call
    from rbe_cli.kernels.attention import attention_backward_call, attention_call
    from rbe_cli.kernels.layer_norm import layer_norm_call
    from rbe_cli.kernels.linear import dense_call
    from rbe_cli.kernels.linear.linear_call import matmul
    from rbe_cli.runtime.thread_team import get_team

    team = get_team(threads)
    return Kernels(
        engine="fast",
        matmul=partial(matmul, team),
        product=partial(dense_call.product_of, team),
        layer_norm=partial(layer_norm_call.layer_norm, team),
        layer_norm_standard=partial(layer_norm_call.layer_norm, team, passes="standard"),
        layer_norm_backward=partial(layer_norm_call.layer_norm_backward, team),
        attention=partial(attention_call.attention, team),
        attention_backward=partial(attention_backward_call.attention_backward, team),
        activate=partial(activation_call.activate, team),
        activate_backward=partial(activation_call.activate_backward, team),
        team=team,
    )


def _reference() -> Kernels:
    from rbe_cli.kernels import numpy_twins

    return Kernels(
        engine="reference",
        matmul=numpy_twins.matmul,
        product=np.matmul,
        layer_norm=numpy_twins.layer_norm,
        layer_norm_standard=numpy_twins.layer_norm,
        layer_norm_backward=numpy_twins.layer_norm_backward,
        attention=numpy_twins.attention,
        attention_backward=numpy_twins.attention_backward,
        activate=numpy_twins.activate,
        activate_backward=numpy_twins.activate_backward,
        team=None,
    )
