from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.column_blocks import SEGMENT, column_blocks
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed import fixed_encoder
from rbe_cli.codec.fixed.fixed_encoder import encode_matrix
from rbe_cli.codec.fixed.fixed_levels import quantiser
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, FixedMatrix, steps
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.native import load
from rbe_cli.weights import panel_layout

BITS = sorted(LAYOUTS)


def table(bits):
    """Return all levels, ascending."""
    return LAYOUTS[bits].levels[1 if bits == 8 else 0 :]


@cache
def correlated(size, seed, decay=1.0):
    """Return X^T X / n, float32 `[size, size]`, with a spectrum that falls as 1 / k ** decay."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    vectors = rng.normal(size=(8 * size, size)) * np.arange(1, size + 1.0) ** -decay @ basis
    return (vectors.T @ vectors / len(vectors)).astype(np.float32)


def random_weights(rows, columns, seed):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def plain(shape):
    """Return the factors of errors that all cost the same."""
    widths = [part.stop - part.start for part in column_blocks(shape[1])]
    return InputFactor.identity(shape[0]), tuple(OutputFactor.identity(width) for width in widths)


def fed_back(inputs, outputs, shape):
    """Return the factors of the moments, which are the identity if None."""
    rows, columns = plain(shape)
    return (
        rows if inputs is None else InputFactor.from_moment(inputs, 0.01),
        columns
        if outputs is None
        else tuple(output_factor(outputs[part, part]) for part in column_blocks(shape[1])),
    )


def output_factor(moment):
    """Return the factor of a moment, for columns that are decided one by one."""
    levels = np.zeros(len(moment), np.int16)
    return OutputFactor.from_moment(moment, 0.01, levels, together=1)


def damped(moment):
    """Return the moment with the damping that `fed_back` uses."""
    return moment + 0.01 * (np.diag(moment).mean(dtype=np.float64) or 1.0) * np.eye(len(moment))


def written_once(weights, bits, inputs, outputs):
    """Encode a matrix by feedback alone, without the descent that follows."""
    codes, *levels = fixed_encoder.quantise(weights, bits, inputs, outputs)
    return FixedMatrix(weights.shape, bits, panel_layout.pack(codes, bits), *levels)


def loss(weights, matrix, inputs, outputs):
    """Return tr(E^T H E G) of the change by encoding."""
    change = (weights - matrix.decode()).astype(np.float64)
    return np.sum((inputs.astype(np.float64) @ change) * (change @ outputs.astype(np.float64)))


@pytest.mark.parametrize("bits", BITS)
def test_a_cell_has_the_nearest_level(bits):
    found, levels = quantiser(bits), table(bits)
    cells = len(found.levels) // 2
    for edge in (0, 15 / 16, 0.5):  # a cell's beginning, its end but for a sixteenth, its middle
        values = (np.arange(-cells, cells) + edge) / 16
        nearest = np.abs(values[:, None] - levels).min(axis=1)
        np.testing.assert_array_equal(np.abs(values - found.levels), nearest)
    assert found.levels[0] == -found.levels[-1] == -found.largest
    np.testing.assert_array_equal(LAYOUTS[bits].levels[found.codes], found.levels)


def targets(weights, matrix, inputs, outputs):
    """Return (the target of each code, the same without feedback from columns), float64.

    They are computed from the errors of the whole matrix, as codec/ectcq/error_feedback.py defines.
    """
    errors = (weights.astype(np.float64) - matrix.decode())[inputs.order]
    lower = inputs.lower.astype(np.float64) if inputs.lower.size else np.eye(len(weights))
    mixed = lower.T @ errors  # L^T E: with each error, those of the rows below
    by_row = weights[inputs.order] + mixed - errors
    by_both = by_row.copy()
    for part, factor in zip(column_blocks(weights.shape[1]), outputs, strict=True):
        if factor.mixing.size:
            order = part.start + factor.order
            by_both[:, order] += mixed[:, order] @ factor.mixing
    natural = np.argsort(inputs.order)
    return by_both[natural], by_row[natural]


@given(
    bits=st.sampled_from(BITS),
    rows=st.sampled_from([1, 5, 64, 150]),
    columns=st.sampled_from([1, 7, SEGMENT + 1, 100, 1100]),
    sides=st.sampled_from(["", "inputs", "outputs", "inputs outputs"]),
    seed=st.integers(0, 2),
)
def test_every_code_is_the_level_nearest_to_its_target(bits, rows, columns, sides, seed):
    weights = random_weights(rows, columns, seed)
    factors = fed_back(
        correlated(rows, seed) if "inputs" in sides else None,
        correlated(columns, seed + 1) if "outputs" in sides else None,
        weights.shape,
    )
    matrix = written_once(weights, bits, *factors)
    target, _ = targets(weights, matrix, *factors)
    scale = matrix.row_steps[:, None] * matrix.column_steps  # [K, N]
    missed = np.abs(target - matrix.decode()) / scale
    levels = table(bits)
    middles = (levels[1:] + levels[:-1]) / 2
    nearest = levels[np.searchsorted(middles, target / scale)]
    least = np.abs(target / scale - nearest)
    assert (missed <= least + 1e-3).all()


@pytest.mark.parametrize("bits", BITS)
def test_another_step_of_a_row_would_err_more(bits):
    weights, shape = random_weights(90, 300, 0), (90, 300)
    factors = fed_back(correlated(90, 0), correlated(300, 1), shape)
    matrix = written_once(weights, bits, *factors)
    _, target = targets(weights, matrix, *factors)
    column = matrix.column_steps.astype(np.float64)
    cost = factors[1][0].diagonal
    levels = table(bits)

    def errors(change):
        scale = steps(matrix.row_levels + np.int8(change))[:, None] * column
        nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, target / scale)]
        return np.sum(cost * (target - scale * nearest) ** 2, axis=1)

    assert (errors(0) <= 1.001 * errors(-1)).all()
    # A step that clips nothing is as large as any need be.
    clips = np.abs(target / column).max(axis=1) > levels[-1] * matrix.row_steps
    assert clips.any()
    assert (errors(0) <= 1.001 * errors(1))[clips].all()


@pytest.mark.parametrize("bits", BITS)
def test_scales_of_rows_and_columns_are_divided_out(bits):
    """The error of a matrix with any scales is at most that of noise with one scale."""
    rng, noise = np.random.default_rng(0), random_weights(200, 300, 0)
    scaled = noise * np.exp(rng.normal(size=(200, 1))) * np.exp(rng.normal(size=300))
    for weights in (noise, scaled.astype(np.float32)):
        change = weights - encode_matrix(weights, bits, *plain(noise.shape)).decode()
        error = np.linalg.norm(change) / np.linalg.norm(weights)
        assert error < {2: 0.345, 4: 0.0955, 8: 0.0075}[bits]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_feedback_lowers_the_loss(bits, decay):
    shape = 150, 160
    weights, identities = random_weights(*shape, 0), (np.eye(150), np.eye(160))
    inputs, outputs = correlated(150, 0, decay), correlated(160, 1, decay)
    without = encode_matrix(weights, bits, *plain(shape))
    for chosen in ((inputs, None), (None, outputs), (inputs, outputs)):
        matrix = encode_matrix(weights, bits, *fed_back(*chosen, shape))
        moments = [
            identity if moment is None else moment
            for moment, identity in zip(chosen, identities, strict=True)
        ]
        assert loss(weights, matrix, *moments) < loss(weights, without, *moments) / 1.5


def test_weights_and_factors_are_left_as_they_are():
    weights = random_weights(70, 40, 0)
    factors = fed_back(correlated(70, 0), correlated(40, 0), weights.shape)
    kept = weights.copy(), factors[0].lower.copy(), factors[1][0].mixing.copy()
    encode_matrix(weights, 4, *factors)
    for array, before in zip((weights, factors[0].lower, factors[1][0].mixing), kept, strict=True):
        np.testing.assert_array_equal(array, before)


UNUSUAL = {
    "zero": np.zeros((70, 90)),
    "one weight": np.pad([[3.0]], ((0, 69), (0, 89))),
    "dead rows and columns": np.outer(np.arange(70) % 3 > 0, np.arange(90) % 4 > 0) * 0.1,
    "tiny": 1e-38 * random_weights(70, 90, 0),
    "huge": np.clip(1e38 * random_weights(70, 90, 0).astype(np.float64), -3e38, 3e38),
    "outlier": random_weights(70, 90, 0) + np.pad([[1e4]], ((30, 39), (40, 49))),
    "spread": random_weights(70, 90, 0) * np.logspace(-20, 15, 90),
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("weights", UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("with_feedback", [False, True])
def test_any_finite_weights_can_be_encoded(bits, weights, with_feedback):
    weights, shape = weights.astype(np.float32), (70, 90)
    moments = (correlated(70, 0), correlated(90, 0)) if with_feedback else (None, None)
    matrix = encode_matrix(weights, bits, *fed_back(*moments, shape))
    decoded = FixedMatrix.from_bytes(matrix.to_bytes(), shape).decode()
    assert np.isfinite(decoded).all()
    inputs, outputs = (
        np.eye(size) if moment is None else damped(moment)
        for moment, size in zip(moments, shape, strict=True)
    )
    exact = weights.astype(np.float64)
    error, size = (
        np.sqrt(np.sum((inputs @ matrix) * (matrix @ outputs)))
        for matrix in (decoded - exact, exact)
    )
    limit = {2: 1.0, 4: 0.35, 8: 0.02}[bits]  # nearly reached where one weight is all there is
    assert error <= limit * size + 1e-30


DEGENERATE = {
    "zero": np.zeros((70, 70)),
    "rank 1": np.ones((70, 70)),
    "dead": np.diag(np.arange(70) % 2),
    "huge": 1e37 * correlated(70, 0, 3),
    "tiny": 1e-37 * correlated(70, 0, 3),
    "ill-conditioned": correlated(70, 0, decay=6),
    "spread": np.diag(np.logspace(-30, 30, 70)),
}


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("moment", DEGENERATE.values(), ids=DEGENERATE)
def test_any_second_moments_can_be_used(bits, moment):
    moment, weights = moment.astype(np.float32), random_weights(70, 70, 0)
    matrix = encode_matrix(weights, bits, *fed_back(moment, moment, weights.shape))
    without = encode_matrix(weights, bits, *plain(weights.shape))
    assert np.isfinite(matrix.decode()).all()
    moments = damped(moment), damped(moment)
    assert loss(weights, matrix, *moments) <= 1.1 * loss(weights, without, *moments)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (9, 100), (75, 129)])
def test_every_instruction_set_gives_the_same_codes(bits, shape, monkeypatch):
    weights = random_weights(*shape, 0)
    factors = fed_back(correlated(shape[0], 0), correlated(shape[1], 1), shape)
    found = []
    for own in available():
        monkeypatch.setattr(fixed_encoder, "load", lambda programs, own=own: load(programs, own))
        found.append(fixed_encoder.quantise(weights, bits, *factors))
    for other in found[1:]:
        for values, expected in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(values, expected)
