"""The choice of kernels, made once, when a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32, InPlace, Int64, PanelValues, Scaling

Engine = Literal["fast", "reference"]


@dataclass(frozen=True)
class Kernels:
    """The functions a model is computed with; shapes as in `rbe_cli.kernels.reference`.

    Attributes:
        engine: the name they were loaded by.
        matmul: (x, values, levels, row_steps, column_steps, bias, out), of a matrix in panels.
        layer_norm: (x, gamma, beta, eps, out).
        attention: (qkv, keys, values, rows, starts, scale, out).
        activations: by the config's name, each in place on `[tokens, n_inner]`.
        layer_norm_backward: (x, gamma, eps, grad, out).
        attention_backward: (qkv, heads, scale, grad, out), of whole sequences.
        activations_backward: (x, grad), grad times the derivative at x, in place.
        threads: at most this many compute; None leaves it to numpy.
    """

    engine: Engine
    matmul: Callable[[Float32, PanelValues, Float32, Float32, Float32, Float32, Float32], None]
    layer_norm: Callable[[Float32, Float32, Float32, float, Float32], None]
    attention: Callable[[Float32, Float32, Float32, Int64, Int64, float, Float32], None]
    activations: Mapping[Activation, InPlace]
    layer_norm_backward: Callable[[Float32, Float32, float, Float32, Float32], None]
    attention_backward: Callable[[Float32, int, float, Float32, Float32], None]
    activations_backward: Mapping[Activation, Scaling]
    threads: int | None


def load_kernels(engine: Engine, threads: int | None = None) -> Kernels:
    """`fast` (Numba) or `reference` (numpy, which never imports Numba).

    Args:
        engine: which.
        threads: for `fast`; None for the physical cores this process may use.

    Raises:
        UsageError: `threads` is below 1.
    """
    return _fast(threads) if engine == "fast" else _reference()


def _fast(threads: int | None) -> Kernels:
    from rbe_cli.kernels import activations, attention, layer_norm, matmul, reference
    from rbe_cli.kernels.threads import make_launcher

    launch = make_launcher(threads)
    return Kernels(
        engine="fast",
        matmul=partial(matmul.matmul, launch),
        layer_norm=layer_norm.layer_norm,
        attention=partial(attention.attention, launch),
        activations=activations.BY_NAME,
        layer_norm_backward=layer_norm.layer_norm_backward,
        attention_backward=reference.attention_backward,  # its time is BLAS's
        activations_backward=activations.BACKWARD,
        threads=launch.threads,
    )


def _reference() -> Kernels:
    from rbe_cli.kernels import reference

    return Kernels(
        engine="reference",
        matmul=reference.matmul,
        layer_norm=reference.layer_norm,
        attention=reference.attention,
        activations=reference.BY_NAME,
        layer_norm_backward=reference.layer_norm_backward,
        attention_backward=reference.attention_backward,
        activations_backward=reference.BACKWARD,
        threads=None,
    )
