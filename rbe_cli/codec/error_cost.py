"""Describe what an error in each weight of a matrix costs the model.

An error E in a matrix increases the loss of the model by about tr(E^T H E G) / 2. H is the second
moment of the matrix's inputs, and G that of the gradient of the loss with respect to its outputs
(Kronecker factors of the Fisher matrix; Martens and Grosse 2015). Encoders use the factors
H = L D L^T and G = M C M^T, with L and M unit lower triangular (ectcq/error_feedback.py).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import exp2, log2
from rbe_cli.algebra.factors import cholesky_in_place, upper_inverse
from rbe_cli.algebra.triangles import packed_lower, unpacked_lower
from rbe_cli.codec.column_blocks import SEGMENT, column_blocks, sorted_order, strided_order
from rbe_cli.codec.scales import Levels, centred, step_levels
from rbe_cli.runtime.thread_team import Team

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_BLOCK = 128  # rows that are multiplied at once
_NONE = np.zeros((0, 0), np.float32)
_ORDERINGS = 2  # the levels of columns and their order are found in turn
_LEAST_DAMPING = 1e-9  # relative to the mean diagonal: the first attempt if no damping is wanted


@dataclass(frozen=True)
class InputFactor:
    """The factors of H, in the order of quantisation.

    Attributes:
        order: int64 `[K]`, row indices by ascending H_ii. The last row is quantised first.
        lower: float32 `[K, K]`, L in that order; `[0, 0]` if H is the identity.
        diagonal: float64 `[K]`, D in that order.
        damping: what was added to the diagonal of H.
    """

    order: NDArray[np.int64]
    lower: Float32
    diagonal: Float64
    damping: float

    @classmethod
    def identity(cls, rows: int) -> "InputFactor":
        """Return the factor of inputs that are uncorrelated and have variance 1."""
        return cls(np.arange(rows), _NONE, np.ones(rows), 0.0)

    @classmethod
    def from_moment(
        cls, moment: NDArray[np.floating], damping: float, team: Team | None = None
    ) -> "InputFactor":
        """Factor H + damping mean(diag H) I, with more damping if that is singular.

        Args:
            moment: H, symmetric, `[K, K]`. It may be zero.
            damping: at least 0.
            team: the threads that multiply; None for the calling thread.

        Raises:
            ValueError: the moment is not finite.
        """
        order = np.argsort(np.diag(moment), kind="stable")
        cholesky, added = damped_cholesky(moment[np.ix_(order, order)], damping, team)
        root = np.diag(cholesky).copy()
        cholesky /= root
        return cls(order, cholesky.astype(np.float32), root**2, added)

    def moment(self) -> tuple[Float32, Float32]:
        """Return the damped H and its diagonal, over the mean of D.

        Returns:
            H, float32 `[K, K]`, or `[0, 0]` if it is diagonal; its diagonal, float32 `[K]`. Both
            are in the order of the matrix.
        """
        relative = (self.diagonal / np.mean(self.diagonal)).astype(np.float32)
        return _moment(self.lower, relative, self.order)

    def output_power(self, change: Float32) -> float:
        """Return tr(C^T H C), the mean squared norm of the outputs that a change of weights makes.

        Args:
            change: C, float32 `[K, N]`.
        """
        ordered, power = change[self.order], 0.0
        for start in range(0, len(ordered), _BLOCK):
            own = slice(start, start + _BLOCK)
            rows = ordered[own]
            if self.lower.size:  # L is zero above
                rows = product(self.lower[start:, own].T, ordered[start:])
            squares = np.einsum("kn,kn->k", rows, rows, dtype=np.float64)
            power += float(np.sum(squares * self.diagonal[own]))
        return power - self.damping * float(np.einsum("kn,kn->", change, change, dtype=np.float64))


@dataclass(frozen=True)
class OutputFactor:
    """The factors of G for the columns of a block.

    Attributes:
        mixing: float32 `[B, B]`, M transposed, in the order of the trellis. Row j holds what an
            error of column j adds to the targets of later columns. It is `[0, 0]` if G is
            diagonal. Columns of the same segment are not mixed, because they are quantised
            together.
        diagonal: float64 `[B]`, C in the order of the matrix.
        levels: int16 `[B]`, the levels of the integers' columns, in the order of the matrix. The
            order of the trellis follows from them. It is `[0]` if G is diagonal: then any order
            is as good.
    """

    mixing: Float32
    diagonal: Float64
    levels: Levels

    @property
    def order(self) -> NDArray[np.int64]:
        """Return the order of the trellis, int64 `[B]`."""
        return sorted_order(self.levels) if self.levels.size else np.arange(self.diagonal.size)

    def moment(self) -> tuple[Float32, Float32]:
        """Return G and its diagonal, over the mean of C.

        Returns:
            G, float32 `[B, B]`, or `[0, 0]` if it is diagonal; its diagonal, float32 `[B]`. Both
            are in the order of the matrix.
        """
        order, relative = self.order, self.diagonal / np.mean(self.diagonal)
        unit = self.mixing + np.eye(len(self.mixing), dtype=np.float32)  # M^T
        return _moment(unit, relative[order].astype(np.float32), order)

    @classmethod
    def identity(cls, columns: int) -> "OutputFactor":
        """Return the factor of outputs that are all equally important."""
        return cls.from_importance(np.ones(columns))

    @classmethod
    def from_importance(cls, importance: Float64) -> "OutputFactor":
        """Return the factor of a diagonal G, given its positive diagonal `[B]`."""
        return cls(_NONE, importance, np.zeros(0, np.int16))

    @classmethod
    def from_moment(
        cls,
        moment: NDArray[np.floating],
        damping: float,
        weight_levels: Levels,
        together: int = SEGMENT,
    ) -> "OutputFactor":
        """Factor G + damping mean(diag G) I, with more damping if that is singular.

        C depends on the order of the columns, and the order on C, by the columns' steps. Both are
        found in turn.

        Args:
            moment: G, symmetric, `[B, B]`. It may be zero.
            damping: at least 0.
            weight_levels: int16 `[B]`, the levels of the weights' columns.
            together: how many columns are quantised at once. Their errors are not mixed. With 1,
                `moment` gives back all of G.

        Raises:
            ValueError: the moment is not finite.
        """
        order = strided_order(len(moment))
        for _ in range(_ORDERINGS):
            cholesky = _cholesky(moment, order, damping)
            diagonal = _in_place(_segment_diagonal(cholesky, together), order)
            unit = _geometric_mean(diagonal)
            levels = centred(weight_levels - step_levels(diagonal, unit))
            order = sorted_order(levels)
        cholesky = _cholesky(moment, order, damping)
        diagonal = _in_place(_segment_diagonal(cholesky, together), order)
        return cls(_mixing(cholesky, together), diagonal, levels)


def _geometric_mean(values: Float64) -> float:
    return float(exp2(np.mean(log2(values))))


def _in_place(ordered: Float64, order: NDArray[np.int64]) -> Float64:
    """Return values of columns in the order of the matrix."""
    values = np.empty_like(ordered)
    values[order] = ordered
    return values


def _cholesky(moment: NDArray[np.floating], order: NDArray[np.int64], damping: float) -> Float64:
    """Factor G from the last column of an order to the first, `[B, B]`, upper triangular.

    The column quantised first is eliminated last.
    """
    backwards = order[::-1]
    lower, _ = damped_cholesky(moment[np.ix_(backwards, backwards)], damping)
    return lower[::-1, ::-1]


def _moment(
    factor: Float32, diagonal: Float32, order: NDArray[np.int64]
) -> tuple[Float32, Float32]:
    """Return F D F^T and its diagonal in the order of the matrix; `[0, 0]` and D if F is empty."""
    place = np.argsort(order)
    if not factor.size:
        return _NONE, diagonal[place]
    moment = product(factor * diagonal, factor.T)[np.ix_(place, place)]
    return moment, np.diag(moment).copy()


def _segments(width: int, together: int) -> list[slice]:
    return [slice(i, min(i + together, width)) for i in range(0, width, together)]


def _segment_diagonal(cholesky: Float64, together: int) -> Float64:
    """Return C `[B]` in the order of the trellis: in segments, nothing mends an error."""
    parts = _segments(len(cholesky), together)
    return np.concatenate([np.sum(cholesky[part, part] ** 2, axis=1) for part in parts])


def _mixing(cholesky: Float64, together: int) -> Float32:
    """Return M transposed, `[B, B]`."""
    mixing = np.zeros(cholesky.shape, np.float32)
    for part in _segments(len(cholesky), together):
        before = cholesky[: part.start, part]
        mixing[: part.start, part] = product(before, upper_inverse(cholesky[part, part]))
    return mixing


def damped_cholesky(
    moment: NDArray[np.floating], damping: float, team: Team | None = None
) -> tuple[Float64, float]:
    """Return the Cholesky factor of a damped moment, and what was added to its diagonal.

    `damping` times the mean diagonal is added. Rounding errors can make a moment indefinite by
    more than that, above all a moment of few tokens, or of channels of very different size.
    Computed exactly, no squared diagonal element of the factor is below what was added. If one is
    below half of it, it is mostly rounding error, and the damping is raised.

    Args:
        moment: symmetric, `[n, n]`. If it is zero, its mean diagonal is taken as 1.
        damping: at least 0.
        team: the threads that multiply; None for the calling thread.

    Returns:
        The factor, float64 `[n, n]`, lower triangular, and the number that was added.

    Raises:
        ValueError: the moment is not finite.
    """
    if not np.isfinite(moment).all():
        raise ValueError("a moment is not finite")  # no damping would help
    diagonal = np.diag(moment).astype(np.float64)
    mean = float(np.mean(diagonal)) or 1.0
    while True:
        added = damping * mean
        factor = moment.astype(np.float64)
        np.fill_diagonal(factor, diagonal + added)
        try:
            cholesky_in_place(factor, team)
        except np.linalg.LinAlgError:
            pass
        else:
            if np.diag(factor).min() ** 2 > 0.5 * added:
                return factor, added
        damping = max(4 * damping, _LEAST_DAMPING)


@dataclass(frozen=True)
class ErrorCost:
    """The cost of errors in a matrix `[K, N]`.

    Attributes:
        inputs: the cost by row.
        outputs: the cost by column, for each column block.
    """

    inputs: InputFactor
    outputs: tuple[OutputFactor, ...]

    @classmethod
    def even(cls, shape: tuple[int, ...]) -> "ErrorCost":
        """Return the cost if all inputs and outputs of a matrix `[K, N]` are equally important."""
        blocks = column_blocks(shape[1])
        outputs = tuple(OutputFactor.identity(part.stop - part.start) for part in blocks)
        return cls(InputFactor.identity(shape[0]), outputs)

    @cached_property
    def unit(self) -> float:
        """Return the geometric mean of C over all columns."""
        return _geometric_mean(np.concatenate([factor.diagonal for factor in self.outputs]))

    @cached_property
    def unit_step(self) -> float:
        """Return the step, in a column with C = `unit`, at which an error of one step costs 1.

        D is averaged over the rows, and the factor 1/2 of the loss is left out.
        """
        return float(1 / np.sqrt(self.unit * np.mean(self.inputs.diagonal)))

    def columns(self, chosen: NDArray[np.int64]) -> OutputFactor:
        """Return C of the columns with the indices `chosen`, without their mixing."""
        importance = np.concatenate([factor.diagonal for factor in self.outputs])
        return OutputFactor.from_importance(importance[chosen])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the cost as arrays for a work folder; its triangles without their zeros."""
        arrays: dict[str, NDArray[Any]] = {
            "order": self.inputs.order,
            "lower": packed_lower(self.inputs.lower),
            "diagonal": self.inputs.diagonal,
            "damping": np.array(self.inputs.damping),
        }
        for block, factor in enumerate(self.outputs):
            arrays[f"mixing-{block}"] = packed_lower(factor.mixing[::-1, ::-1])
            arrays[f"importance-{block}"] = factor.diagonal
            arrays[f"levels-{block}"] = factor.levels
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "ErrorCost":
        """Return the cost that `to_arrays` gave as arrays."""
        order, diagonal = arrays["order"], arrays["diagonal"]
        lower = _triangle(arrays["lower"], order.size)
        outputs = []
        for block in range(sum(name.startswith("mixing-") for name in arrays)):
            importance, levels = arrays[f"importance-{block}"], arrays[f"levels-{block}"]
            mixing = _triangle(arrays[f"mixing-{block}"], importance.size)[::-1, ::-1]
            outputs.append(OutputFactor(np.ascontiguousarray(mixing), importance, levels))
        return cls(InputFactor(order, lower, diagonal, float(arrays["damping"])), tuple(outputs))


def _triangle(packed: Float32, size: int) -> Float32:
    """Return a triangular matrix `[size, size]` of `to_arrays`; `[0, 0]` if it was."""
    return unpacked_lower(packed, size if packed.size else 0)
