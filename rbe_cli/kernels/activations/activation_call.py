"""Apply activation functions to arrays, with the threads of a team (vector_math.py)."""

import numpy as np

from rbe_cli.kernels.kernel_records import ACTIVATE, ACTIVATIONS
from rbe_cli.model.config import Activation
from rbe_cli.runtime.addresses import address, float_address
from rbe_cli.runtime.arrays import Float32
from rbe_cli.runtime.libraries import ACTIVATE as ACTIVATE_PROGRAM
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team

_LANES = 16
_MIN_PARALLEL_ELEMENTS = 1 << 15  # below, waking a thread costs more than it saves


def activate(team: Team, name: Activation, x: Float32) -> None:
    """Apply an activation function to x `[...]`, float32 and contiguous, in place."""
    whole = x.size // _LANES * _LANES
    flat = x.reshape(-1)
    _run(team, name, flat[:whole], None)
    if whole < flat.size:
        rest = np.zeros(_LANES, np.float32)
        rest[: flat.size - whole] = flat[whole:]
        _run(team, name, rest, None)
        flat[whole:] = rest[: flat.size - whole]


def activate_backward(team: Team, name: Activation, x: Float32, grad: Float32) -> None:
    """Multiply grad by the function's derivative at x, in place; both `[...]` and contiguous."""
    whole = x.size // _LANES * _LANES
    flat, change = x.reshape(-1), grad.reshape(-1)
    _run(team, name, flat[:whole], change[:whole])
    if whole < flat.size:
        rest = np.zeros((2, _LANES), np.float32)
        rest[0, : flat.size - whole], rest[1, : flat.size - whole] = flat[whole:], change[whole:]
        _run(team, name, rest[0], rest[1])
        change[whole:] = rest[1, : flat.size - whole]


def _run(team: Team, name: Activation, x: Float32, grad: Float32 | None) -> None:
    (program,) = load([ACTIVATE_PROGRAM], team.instructions)
    job = np.zeros(1, ACTIVATE)
    job["activation"], job["length"] = ACTIVATIONS[name], x.size
    job["x"], job["grad"] = float_address(x), 0 if grad is None else float_address(grad)
    team.run(program, address(job), 1 if x.size < _MIN_PARALLEL_ELEMENTS else None)
