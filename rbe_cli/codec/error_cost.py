"""Measure what an error in each weight of a matrix costs the model.

The model's loss grows by tr(E^T H E G) / 2 when a matrix errs by E: H is the second moment of
its inputs, G that of the loss's gradient with respect to its outputs (a Kronecker-factored
Fisher matrix; Martens and Grosse 2015). Encoders take both as factors: H = L D L^T and
G = M C M^T, with L and M unit lower triangular (ectcq/error_feedback.py).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.column_blocks import SEGMENT, column_blocks, trellis_order

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_NONE = np.zeros((0, 0), np.float32)
_LEAST_DAMPING = 1e-9  # of the mean diagonal: what is tried first where none was asked for


@dataclass(frozen=True)
class InputFactor:
    """Hold H's factors in the order of quantisation.

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
        """Return the factor of inputs that are uncorrelated and of variance 1."""
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
        """Return tr(C^T H C): the mean squares of inputs times C `[K, N]`, summed over outputs."""
        ordered = change[self.order]
        transformed = self.lower.T @ ordered if self.lower.size else ordered  # [K, N]
        rows = np.einsum("kn,kn->k", transformed, transformed, dtype=np.float64)
        power = float(rows @ self.diagonal)
        return power - self.damping * float(np.einsum("kn,kn->", change, change, dtype=np.float64))


@dataclass(frozen=True)
class OutputFactor:
    """Hold G's factors for the columns of a block, in the trellis's order.

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
        """Return the factor of outputs that all matter equally."""
        return cls(_NONE, np.ones(columns))

    @classmethod
    def from_importance(cls, importance: Float64) -> "OutputFactor":
        """Return the factor of a diagonal G, positive, `[B]`."""
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
    """Return the Cholesky factor of a moment with a damped diagonal, and what was added to it.

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


@dataclass(frozen=True)
class ErrorCost:
    """Hold what an error in a matrix `[K, N]` costs.

    Attributes:
        inputs: by its row.
        outputs: by its column, for each column block.
    """

    inputs: InputFactor
    outputs: tuple[OutputFactor, ...]

    @classmethod
    def even(cls, shape: tuple[int, ...]) -> "ErrorCost":
        """Return the cost where all inputs and outputs of a matrix `[K, N]` matter equally."""
        blocks = column_blocks(shape[1])
        outputs = tuple(OutputFactor.identity(part.stop - part.start) for part in blocks)
        return cls(InputFactor.identity(shape[0]), outputs)

    @cached_property
    def unit(self) -> float:
        """Return the columns' geometric mean of C."""
        logs = [np.log(factor.diagonal) for factor in self.outputs]
        return float(np.exp(np.mean(np.concatenate(logs))))

    @cached_property
    def unit_step(self) -> float:
        """Return the step of a column of C = `unit` where an error costs a set amount."""
        return float(1 / np.sqrt(self.unit * np.mean(self.inputs.diagonal)))

    def columns(self, chosen: NDArray[np.int64]) -> OutputFactor:
        """Return C of some columns, by themselves."""
        parts = []
        for factor in self.outputs:
            part = np.empty(factor.diagonal.size)
            part[trellis_order(part.size)] = factor.diagonal
            parts.append(part)
        return OutputFactor.from_importance(np.concatenate(parts)[chosen])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that a work folder keeps."""
        arrays: dict[str, NDArray[Any]] = {
            "order": self.inputs.order,
            "lower": self.inputs.lower,
            "diagonal": self.inputs.diagonal,
            "damping": np.array(self.inputs.damping),
        }
        for block, factor in enumerate(self.outputs):
            arrays[f"mixing-{block}"] = factor.mixing
            arrays[f"importance-{block}"] = factor.diagonal
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "ErrorCost":
        """Return the cost that `to_arrays` has turned into arrays."""
        damping = float(arrays["damping"])
        inputs = InputFactor(arrays["order"], arrays["lower"], arrays["diagonal"], damping)
        blocks = sum(name.startswith("mixing-") for name in arrays)
        return cls(
            inputs,
            tuple(
                OutputFactor(arrays[f"mixing-{block}"], arrays[f"importance-{block}"])
                for block in range(blocks)
            ),
        )
