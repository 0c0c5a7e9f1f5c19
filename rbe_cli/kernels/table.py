"""The choice of kernels, made once, when a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32, InPlace, Int64, PanelValues

Engine = Literal["fast", "reference"]


@dataclass(frozen=True)
class Kernels:
    """The functions a model is computed with; shapes as in `rbe_cli.kernels.reference`.

    Attributes:
        engine: the name they were loaded by.
        matmul: (x, values, row_steps, bias, out), for a matrix in panels.
        layer_norm: (x, gamma, beta, eps, out).
        attention: (qkv, keys, values, rows, starts, scale, out).
        activations: by the config's name, each in place on `[tokens, n_inner]`.
        threads: at most this many compute; None leaves it to numpy.
    """

    engine: Engine
    matmul: Callable[[Float32, PanelValues, Float32, Float32, Float32], None]
    layer_norm: Callable[[Float32, Float32, Float32, float, Float32], None]
    attention: Callable[[Float32, Float32, Float32, Int64, Int64, float, Float32], None]
    activations: Mapping[Activation, InPlace]
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
    from rbe_cli.kernels import activations, attention, layer_norm, matmul
    from rbe_cli.kernels.threads import make_launcher

    launch = make_launcher(threads)
    return Kernels(
        engine="fast",
        matmul=partial(matmul.matmul, launch),
        layer_norm=layer_norm.layer_norm,
        attention=partial(attention.attention, launch),
        activations=activations.BY_NAME,
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
        threads=None,
    )
