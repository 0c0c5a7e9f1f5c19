"""LDLQ error feedback (Chee et al. 2023, QuIP; the same as GPTQ, Frantar et al. 2022).

H = X^T X of a layer's inputs is factored as L D L^T, L unit lower triangular. Rows are
quantised from the last to the first; each row's target is its weight plus the errors of
the rows already written, weighted by L, which leaves sum_i D_i (t_i - w_i)^2 as the
output's squared error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy_model import LEVELS_PER_OCTAVE, entropy_tables
from rbe_cli.codec.trellis import STATES, quantise_row
from rbe_cli.jit import jit

Float32 = NDArray[np.float32]
DAMPING = 0.01  # of H's mean diagonal, added to it
RATE_WEIGHT = 0.25  # lambda: squared steps that a bit is worth to the Viterbi search
_ROWS = 64  # rows quantised between two matrix products


@dataclass(frozen=True)
class Feedback:
    """H's factors in the order of quantisation.

    Attributes:
        order: int64 `[K]`, row indices by ascending H_ii; quantised from the last.
        lower: float32 `[K, K]`, L in that order.
        diagonal: float32 `[K]`, D in that order.
        damping: what was added to H's diagonal.
    """

    order: NDArray[np.int64]
    lower: Float32
    diagonal: Float32
    damping: float

    @classmethod
    def from_hessian(cls, hessian: Float32) -> "Feedback":
        """Factor H + DAMPING mean(diag H) I; `hessian` is symmetric, float32 `[K, K]`."""
        order = np.argsort(np.diag(hessian), kind="stable")
        damped = hessian[np.ix_(order, order)].astype(np.float64)
        damping = DAMPING * (float(np.mean(np.diag(damped))) or 1.0)
        damped[np.diag_indices_from(damped)] += damping
        cholesky = np.linalg.cholesky(damped)
        root = np.diag(cholesky)
        lower = (cholesky / root).astype(np.float32)
        return cls(order, lower, (root**2).astype(np.float32), damping)

    def output_power(self, change: Float32) -> float:
        """tr(C^T H C), the mean squared output, summed over outputs, of inputs times C `[K, N]`."""
        transformed = self.lower.T @ change[self.order]  # [K, N]
        power = np.einsum("kn,kn,k->", transformed, transformed, self.diagonal, dtype=np.float64)
        return float(power) - self.damping * float(np.sum(change**2, dtype=np.float64))


@jit()
def _quantise_rows(
    targets: Float32,
    errors: Float32,
    lower: Float32,
    step: float,
    column_levels: NDArray[np.int16],
    rate_weight: float,
    bits: Float32,
    shift: NDArray[np.int64],
    row_levels: NDArray[np.int16],
    out: NDArray[np.int32],
) -> None:
    """Quantise `[rows, B]` from the last row to the first.

    `targets` holds the weights plus the feedback of rows outside; `errors` holds the
    weights and becomes their errors.
    """
    rows, width = targets.shape
    choices = np.empty((width, 4), np.int32)
    decisions = np.empty((width, STATES), np.uint8)
    target = np.empty(width, np.float32)
    inverse_scale = np.empty(width, np.float32)
    inverse_step = np.float32(1.0 / step)
    for k in range(width):
        inverse_scale[k] = 2.0 ** (-column_levels[k] / LEVELS_PER_OCTAVE)
    for i in range(rows - 1, -1, -1):
        target[:] = targets[i]
        for j in range(i + 1, rows):
            factor = lower[j, i]
            for k in range(width):
                target[k] += factor * errors[j, k]
        power = 0.0
        for k in range(width):
            target[k] *= inverse_step
            power += np.float64(target[k] * inverse_scale[k]) ** 2
        level = LEVELS_PER_OCTAVE * 0.5 * np.log2(max(power / width, 1e-12))
        row_levels[i] = np.int16(np.rint(level))
        quantise_row(
            target, row_levels[i], column_levels, rate_weight,
            bits, shift, choices, decisions, out[i],
        )  # fmt: skip
        for k in range(width):
            errors[i, k] -= np.float32(step) * np.float32(out[i, k])


def quantise(
    weights: Float32,
    feedback: Feedback | None,
    step: float,
    column_levels: NDArray[np.int16],
) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """Write a block of weights as trellis integers.

    Args:
        weights: float32 `[K, B]`.
        feedback: of the layer's inputs; None quantises each row by itself.
        step: the quantiser's step, in the weights' units.
        column_levels: int16 `[B]`, log-scales of the columns in the entropy model.

    Returns:
        The integers, int32 `[K, B]`, and the rows' levels, int16 `[K]`, taken from the
        targets that were quantised.
    """
    tables = entropy_tables()
    order = feedback.order if feedback else np.arange(len(weights))
    lower = feedback.lower if feedback else None
    errors = np.ascontiguousarray(weights[order])
    targets = errors.copy()
    integers = np.empty(weights.shape, np.int32)
    levels = np.empty(len(weights), np.int16)
    nothing = np.zeros((_ROWS, _ROWS), np.float32)
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = nothing if lower is None else np.ascontiguousarray(lower[part, part])
        _quantise_rows(
            targets[part], errors[part], inner, step, column_levels, RATE_WEIGHT,
            tables.bits, tables.shift, levels[part], integers[part],
        )  # fmt: skip
        if lower is not None and start:
            targets[:start] += lower[part, :start].T @ errors[part]
    natural = np.argsort(order)
    return integers[natural], levels[natural]
