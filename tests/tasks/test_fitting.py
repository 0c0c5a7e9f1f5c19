import dataclasses

import numpy as np
import pytest

from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.errors import UsageError
from rbe_cli.progress import no_progress
from rbe_cli.tasks.encoding import Source, encode_all
from rbe_cli.tasks.fitting import Forecast, fit
from rbe_cli.tasks.settings import Override, Settings

SHAPES = {"a": (64, 300), "b": (40, 120), "c": (120, 90)}
WEIGHTS = sum(rows * columns for rows, columns in SHAPES.values())


def correlated(rng, size):
    rows = rng.normal(size=(4 * size, size)) @ rng.normal(size=(size, size)) / size
    return (rows.T @ rows / len(rows)).astype(np.float32)


@pytest.fixture(scope="module")
def sources():
    """Matrices of different scales whose errors cost alike, each in units of its scale."""
    rng, found = np.random.default_rng(0), {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        scale = 10.0**number
        found[name] = Source(
            (scale * rng.normal(size=shape)).astype(np.float32),
            InputFactor.identity(shape[0]),
            (OutputFactor.from_importance(np.full(shape[1], scale**-2)),),
        )
    return found


@pytest.fixture(scope="module")
def mixed_sources(sources):
    """The same with feedback, from which a sample of some columns knows less."""
    rng = np.random.default_rng(1)
    return {
        name: Source(
            source.weights,
            InputFactor.from_moment(correlated(rng, len(source.weights)), 0.01),
            (OutputFactor.from_moment(correlated(rng, source.weights.shape[1]), 0.01),),
        )
        for name, source in sources.items()
    }


def size(matrices):
    """Bits a weight of a file that holds nothing else."""
    return 8 * sum(matrices.values()) / WEIGHTS


def reached(encoded):
    return size({name: matrix.nbytes for name, matrix in encoded.items()})


def bits(matrix):
    return 8 * matrix.nbytes / (matrix.shape[0] * matrix.shape[1])


@pytest.mark.parametrize("target", [1.5, 2.0, 3.3, 4.0, 6.0, 10.0])
def test_the_target_is_reached(sources, executor, progress, target):
    encoded = fit(sources, Settings(target), size, executor, progress)
    assert encoded.keys() == sources.keys()
    assert reached(encoded) == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("target", [1.5, 2.0, 4.0, 8.0])
def test_the_target_is_reached_with_feedback(mixed_sources, executor, target):
    encoded = fit(mixed_sources, Settings(target), size, executor, no_progress)
    assert reached(encoded) == pytest.approx(target, rel=0.01)


def test_matrices_that_matter_alike_have_the_same_rate(sources, executor):
    encoded = fit(sources, Settings(4.0), size, executor, no_progress)
    for matrix in encoded.values():
        assert bits(matrix) == pytest.approx(4, abs=0.25)  # some pay for more scales a weight


def test_a_matrix_that_matters_more_has_more_bits(sources, executor):
    grave = dataclasses.replace(
        sources["b"], outputs=(OutputFactor.from_importance(np.full(120, 0.16)),)
    )
    plain = fit(sources, Settings(4.0), size, executor, no_progress)
    shifted = fit(sources | {"b": grave}, Settings(4.0), size, executor, no_progress)
    relative = shifted["b"].step / shifted["a"].step * plain["a"].step / plain["b"].step
    assert relative == pytest.approx(1 / 4, rel=1e-5)  # squared errors count 16 times
    assert bits(shifted["b"]) - bits(shifted["a"]) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_rates_of_their_own_are_kept_and_the_others_make_up_for_them(which, request, executor):
    settings = Settings(4.0, override=(Override("b", bits=7.0), Override("c", bits=2.0)))
    encoded = fit(request.getfixturevalue(which), settings, size, executor, no_progress)
    assert bits(encoded["b"]) == pytest.approx(7, rel=0.01)
    assert bits(encoded["c"]) == pytest.approx(2, rel=0.01)
    assert reached(encoded) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_no_target_binds_where_no_rate_is_free(which, request, executor):
    settings = Settings(4.0, override=(Override("", bits=5.0),))
    sources = request.getfixturevalue(which)
    for matrix in fit(sources, settings, size, executor, no_progress).values():
        assert bits(matrix) == pytest.approx(5, rel=0.01)
    assert fit({}, Settings(4.0), size, executor, no_progress) == {}


def test_zeros_cannot_have_bits_and_do_not_keep_the_others_from_theirs(mixed_sources, executor):
    zeros = dataclasses.replace(mixed_sources["b"], weights=np.zeros((40, 120), np.float32))
    settings = Settings(4.0, override=(Override("b", bits=3.0), Override("c", bits=6.0)))
    encoded = fit(mixed_sources | {"b": zeros}, settings, size, executor, no_progress)
    assert not encoded["b"].decode().any()
    assert bits(encoded["c"]) == pytest.approx(6, rel=0.01)
    assert reached(encoded) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("target", [1.0, 12.0])
def test_a_target_out_of_reach_is_refused(sources, executor, target):
    """Rates of their own leave the one free matrix too much or too little."""
    fixed = Override("[ac]", bits=4.0)
    message = rf"{target} bits a weight cannot be reached: the nearest is [0-9.]+$"
    with pytest.raises(UsageError, match=message):
        fit(sources, Settings(target, override=(fixed,)), size, executor, no_progress)


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_a_forecast_learns_what_whole_matrices_take(which, request, executor):
    sources = request.getfixturevalue(which)

    def written(steps):
        return {name: matrix.nbytes for name, matrix in encode_all(sources, steps, executor)}

    forecast = Forecast(sources, executor)
    steps = {name: 0.3 * float(source.weights.std()) for name, source in sources.items()}
    before, whole = forecast.bytes(steps), written(steps)
    forecast.learn(steps, whole)
    for name, nbytes in forecast.bytes(steps).items():
        assert abs(nbytes - whole[name]) <= 1
        assert before[name] == pytest.approx(nbytes, rel=0.15)
    half = {name: step / 2 for name, step in steps.items()}
    expected = written(half)
    for name, nbytes in forecast.bytes(half).items():
        assert nbytes == pytest.approx(expected[name], rel=0.02)
