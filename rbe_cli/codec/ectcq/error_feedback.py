"""Error feedback: weights not yet written make up for the errors of those already written.

The model's loss grows by tr(E^T H E G) / 2 when a matrix errs by E: H is the second moment of
its inputs, G that of the loss's gradient with respect to its outputs (a Kronecker factored
Fisher matrix; Martens and Grosse 2015; for rounding, Tseng et al. 2025, arXiv 2505.22988).
With H = L D L^T and G = M C M^T, L and M unit lower triangular, the loss is
sum_ij D_i C_j (t_ij - w_ij)^2 if each weight's target t adds to it the errors of the weights
already written: the rows below by L, and in all these rows the columns before by M. With G
the identity this is LDLQ (Chee et al. 2023) and GPTQ (Frantar et al. 2022).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import SEGMENT, trellis_order
from rbe_cli.codec.ectcq import scales
from rbe_cli.codec.ectcq.trellis import DEFAULT_OPTIONS, QuantiserOptions, make_search
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.runtime.libraries import QUANTISE_ROWS
from rbe_cli.runtime.native import load

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RATE_WEIGHT = 0.25  # lambda: squared steps that a bit is worth to the Viterbi search
_ROWS = 64  # rows quantised between two matrix products
_NONE = np.zeros((0, 0), np.float32)
_LEAST_DAMPING = 1e-9  # of the mean diagonal: what is tried first where none was asked for


@dataclass(frozen=True)
class InputFactor:
    """H's factors in the order of quantisation.

    Attributes:
        order: int64 `[K]`, row indices by ascending H_ii; quantised from the last.
        lower: float32 `[K, K]`, L in that order; `[0, 0]` where H is the identity.
        diagonal: float64 `[K]`, D in that order.
        damping: what was added to H's diagonal.
    """

    order: NDArray[np.int64]
    lower: Float32
    diagonal: Float64
    damping: float

    @classmethod
    def identity(cls, rows: int) -> "InputFactor":
        """Of inputs that are uncorrelated and of variance 1."""
        return cls(np.arange(rows), _NONE, np.ones(rows), 0.0)

    @classmethod
    def from_moment(cls, moment: NDArray[np.floating], damping: float) -> "InputFactor":
        """Factor H + damping mean(diag H) I, with more damping if that is singular.

        Args:
            moment: H, symmetric, `[K, K]`; all of it may be zero.
            damping: at least 0.
        """
        order = np.argsort(np.diag(moment), kind="stable")
        cholesky, added = damped_cholesky(moment[np.ix_(order, order)], damping)
        root = np.diag(cholesky)
        lower = (cholesky / root).astype(np.float32)
        return cls(order, lower, root**2, added)

    def output_power(self, change: Float32) -> float:
        """tr(C^T H C), the mean squared output, summed over outputs, of inputs times C `[K, N]`."""
        ordered = change[self.order]
        transformed = self.lower.T @ ordered if self.lower.size else ordered  # [K, N]
        rows = np.einsum("kn,kn->k", transformed, transformed, dtype=np.float64)
        power = float(rows @ self.diagonal)
        return power - self.damping * float(np.einsum("kn,kn->", change, change, dtype=np.float64))


@dataclass(frozen=True)
class OutputFactor:
    """G's factors for the columns of a block, in the trellis's order.

    Attributes:
        mixing: float32 `[B, B]`, M transposed: row j holds what column j's error adds to the
            later columns' targets; `[0, 0]` where G is diagonal. Columns of a segment are not
            mixed: they are written together.
        diagonal: float64 `[B]`, C.
    """

    mixing: Float32
    diagonal: Float64

    @classmethod
    def identity(cls, columns: int) -> "OutputFactor":
        """Of outputs that all matter alike."""
        return cls(_NONE, np.ones(columns))

    @classmethod
    def from_importance(cls, importance: Float64) -> "OutputFactor":
        """Of a diagonal G, positive, `[B]`."""
        return cls(_NONE, importance[trellis_order(len(importance))])

    @classmethod
    def from_moment(cls, moment: NDArray[np.floating], damping: float) -> "OutputFactor":
        """Factor G + damping mean(diag G) I, with more damping if that is singular.

        Args:
            moment: G, symmetric, `[B, B]`; all of it may be zero.
            damping: at least 0.
        """
        # The first column to be written is eliminated last: G is factored back to front.
        order = trellis_order(len(moment))[::-1]
        cholesky, _ = damped_cholesky(moment[np.ix_(order, order)], damping)
        mixing = np.zeros_like(cholesky)
        diagonal = np.empty(len(order))
        for stop in range(len(order), 0, -SEGMENT):
            part = slice(max(0, stop - SEGMENT), stop)
            corner = cholesky[part, part]
            diagonal[part] = np.sum(corner**2, axis=1)
            mixing[stop:, part] = np.linalg.solve(corner.T, cholesky[stop:, part].T).T
        front_to_back = np.ascontiguousarray(mixing[::-1, ::-1], np.float32)
        return cls(front_to_back, diagonal[::-1].copy())


def damped_cholesky(moment: NDArray[np.floating], damping: float) -> tuple[Float64, float]:
    """The Cholesky factor of a moment plus `damping` times its mean diagonal, and what was added.

    Rounding errors in a moment can make it indefinite by more than the damping, above all one
    of few tokens or of channels of very different size. Exactly computed, no conditional
    variance is below what was added; where one is below half of that, rounding errors decide
    it, and the damping is raised until none is.

    Args:
        moment: symmetric, finite, `[n, n]`; for one of zeros, the mean is taken to be 1.
        damping: at least 0.
    """
    damped = moment.astype(np.float64)
    if not np.isfinite(damped).all():
        raise ValueError("a moment is not finite")  # no damping would help
    diagonal = np.diag(damped).copy()
    mean = float(np.mean(diagonal)) or 1.0
    while True:
        added = damping * mean
        np.fill_diagonal(damped, diagonal + added)
        try:
            cholesky = np.asarray(np.linalg.cholesky(damped), np.float64)
        except np.linalg.LinAlgError:
            pass
        else:
            if np.diag(cholesky).min() ** 2 > 0.5 * added:
                return cholesky, added
        damping = max(4 * damping, _LEAST_DAMPING)


def quantise(
    weights: Float32,
    step_levels: NDArray[np.int16],
    step: float,
    inputs: InputFactor,
    outputs: OutputFactor,
    options: QuantiserOptions = DEFAULT_OPTIONS,
) -> NDArray[np.int32]:
    """Write a block of weights as trellis integers.

    Args:
        weights: float32 `[K, B]`, columns in the trellis's order.
        step_levels: int16 `[B]`, the columns' steps over `step`, in eighths of an octave.
        step: of the quantiser, in the weights' units.
        inputs, outputs: what an error costs.
        options: of the trellis.

    Returns:
        int32 `[K, B]`, columns in the trellis's order.
    """
    # Each end of a search costs a little, and only feedback from column to column needs it.
    segment = SEGMENT if outputs.mixing.size else weights.shape[1]
    search = make_search(segment, options, RATE_WEIGHT)
    steps = scales.steps(step, step_levels)  # [B]
    with np.errstate(over="ignore"):
        scaled = weights[inputs.order] / steps
    # What no integer reaches is clipped, and that error is not for other weights to make up for.
    np.clip(scaled, -MAX_INTEGER, MAX_INTEGER, out=scaled)
    mixing = outputs.mixing * steps[:, None] / steps if outputs.mixing.size else outputs.mixing
    levels = scales.column_levels(scaled)
    carried = np.zeros_like(scaled)
    errors = np.empty_like(scaled)
    integers = np.empty(weights.shape, np.int32)
    lower = inputs.lower
    scratch, factors = np.empty((3, weights.shape[1]), np.float32), np.empty(_ROWS, np.float32)
    (quantise_rows,) = load([QUANTISE_ROWS])
    for start in range((len(weights) - 1) // _ROWS * _ROWS, -1, -_ROWS):
        part = slice(start, min(start + _ROWS, len(weights)))
        inner = np.ascontiguousarray(lower[part, part])
        quantise_rows(
            scaled[part], carried[part], inner, mixing, levels, *search,
            scratch, factors, errors[part], integers[part],
        )  # fmt: skip
        if lower.size and start:
            carried[:start] += lower[part, :start].T @ errors[part]
    return integers[np.argsort(inputs.order)]
