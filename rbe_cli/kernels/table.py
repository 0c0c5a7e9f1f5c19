"""The choice of kernels, made once, when a model is loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32, InPlace, Int64, Scaling
from rbe_cli.kernels.panel import PanelMatrix

if TYPE_CHECKING:
    from rbe_cli.kernels.team import Team

Engine = Literal["fast", "reference"]
_ACTIVATIONS: dict[Activation, str] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
}


@dataclass(frozen=True)
class Kernels:
    """The functions a model is computed with; shapes as in `rbe_cli.kernels.reference`.

    Attributes:
        engine: the name they were loaded by.
        matmul: (x, matrix, bias, out), of a matrix in panels.
        layer_norm: (x, gamma, beta, eps, out).
        attention: (qkv, keys, values, rows, starts, scale, out).
        activations: by the config's name, each in place on `[tokens, n_inner]`.
        layer_norm_backward: (x, gamma, eps, grad, out).
        attention_backward: (qkv, heads, scale, grad, out), of whole sequences.
        activations_backward: (x, grad), grad times the derivative at x, in place.
        team: the threads of the compiled programs; None leaves it to numpy.
    """

    engine: Engine
    matmul: Callable[[Float32, PanelMatrix, Float32, Float32], None]
    layer_norm: Callable[[Float32, Float32, Float32, float, Float32], None]
    attention: Callable[[Float32, Float32, Float32, Int64, Int64, float, Float32], None]
    activations: Mapping[Activation, InPlace]
    layer_norm_backward: Callable[[Float32, Float32, float, Float32, Float32], None]
    attention_backward: Callable[[Float32, int, float, Float32, Float32], None]
    activations_backward: Mapping[Activation, Scaling]
    team: "Team | None"

    @property
    def threads(self) -> int | None:
        """At most this many compute; None leaves it to numpy."""
        return self.team.threads if self.team else None


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
    from rbe_cli.kernels import reference
    from rbe_cli.kernels.matmul import matmul
    from rbe_cli.kernels.team import get_team

    team = get_team(threads)
    return Kernels(
        engine="fast",
        matmul=partial(matmul, team),
        layer_norm=_numba("layer_norm", "layer_norm"),
        attention=_numba("attention", "attention", team.threads),
        activations={name: _numba("activations", own) for name, own in _ACTIVATIONS.items()},
        layer_norm_backward=_numba("layer_norm", "layer_norm_backward"),
        attention_backward=reference.attention_backward,  # its time is BLAS's
        activations_backward={
            name: _numba("activations", f"{own}_backward") for name, own in _ACTIVATIONS.items()
        },
        team=team,
    )


def _numba(module: str, name: str, *first: object) -> Callable[..., None]:
    """A kernel that imports Numba, a quarter of a second, when it is first called."""

    def call(*arguments: object) -> None:
        function = getattr(import_module(f"rbe_cli.kernels.{module}"), name)
        function(*first, *arguments)

    return call


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
        team=None,
    )
