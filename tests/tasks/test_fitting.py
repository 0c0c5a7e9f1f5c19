import numpy as np
import pytest
from rbe_cli.tasks.sensitivity import probe_step

from rbe_cli.codec.allocation import Probe
from rbe_cli.errors import UsageError
from rbe_cli.progress import no_progress
from rbe_cli.tasks.encoding import Source, encode_all
from rbe_cli.tasks.fitting import Forecast, fit
from rbe_cli.tasks.settings import Override, Settings

SHAPES = {"a": (64, 300), "b": (40, 120), "c": (120, 90)}
WEIGHTS = sum(rows * columns for rows, columns in SHAPES.values())


@pytest.fixture(scope="module")
def sources():
    """Matrices of different scales."""
    rng = np.random.default_rng(0)
    return {
        name: Source((10.0**number * rng.normal(size=shape)).astype(np.float32))
        for number, (name, shape) in enumerate(SHAPES.items())
    }


@pytest.fixture
def probes(sources, executor):
    """As if the model's loss were the squared errors, each in units of its matrix's scale."""
    steps = {name: probe_step(source.weights) for name, source in sources.items()}
    found = {}
    for name, matrix in encode_all(sources, steps, executor):
        weights = sources[name].weights
        loss = np.sum((weights - matrix.decode()) ** 2) / np.var(weights)
        found[name] = Probe(weights.size, steps[name], matrix.nbytes, float(loss))
    return found


def size(matrices):
    """Bits a weight of a file that holds nothing else."""
    return 8 * sum(matrices.values()) / WEIGHTS


def bits(matrix):
    return 8 * matrix.nbytes / (matrix.shape[0] * matrix.shape[1])


@pytest.mark.parametrize("target", [1.5, 2.0, 3.3, 4.0, 6.0, 10.0])
def test_the_target_is_reached(sources, probes, executor, progress, target):
    encoded = fit(sources, probes, Settings(target), size, executor, progress)
    assert encoded.keys() == sources.keys()
    reached = size({name: matrix.nbytes for name, matrix in encoded.items()})
    assert reached == pytest.approx(target, rel=0.01)


def test_matrices_that_matter_alike_have_the_same_rate(sources, probes, executor):
    encoded = fit(sources, probes, Settings(4.0), size, executor, no_progress)
    for matrix in encoded.values():
        assert bits(matrix) == pytest.approx(4, abs=0.25)  # some pay for more scales a weight


def test_a_matrix_that_matters_more_has_more_bits(sources, probes, executor):
    grave = probes["b"].__class__(
        probes["b"].weights, probes["b"].step, probes["b"].nbytes, 16 * probes["b"].loss
    )
    plain = fit(sources, probes, Settings(4.0), size, executor, no_progress)
    shifted = fit(sources, probes | {"b": grave}, Settings(4.0), size, executor, no_progress)
    relative = shifted["b"].step / shifted["a"].step * plain["a"].step / plain["b"].step
    assert relative == pytest.approx(1 / 4, rel=1e-5)  # squared errors count 16 times


def test_rates_of_their_own_are_kept_and_the_others_make_up_for_them(sources, probes, executor):
    settings = Settings(4.0, override=(Override("b", bits=7.0), Override("c", bits=2.0)))
    encoded = fit(sources, probes, settings, size, executor, no_progress)
    assert bits(encoded["b"]) == pytest.approx(7, rel=0.01)
    assert bits(encoded["c"]) == pytest.approx(2, rel=0.01)
    reached = size({name: matrix.nbytes for name, matrix in encoded.items()})
    assert reached == pytest.approx(4, rel=0.01)


def test_no_target_binds_where_no_rate_is_free(sources, probes, executor):
    settings = Settings(4.0, override=(Override("", bits=5.0),))
    for matrix in fit(sources, probes, settings, size, executor, no_progress).values():
        assert bits(matrix) == pytest.approx(5, rel=0.02)
    assert fit({}, {}, Settings(4.0), size, executor, no_progress) == {}


@pytest.mark.parametrize("target", [1.0, 12.0])
def test_a_target_out_of_reach_is_refused(sources, probes, executor, target):
    """Rates of their own leave the one free matrix too much or too little."""
    fixed = Override("[ac]", bits=4.0)
    message = rf"{target} bits a weight cannot be reached: the nearest is [0-9.]+$"
    with pytest.raises(UsageError, match=message):
        fit(sources, probes, Settings(target, override=(fixed,)), size, executor, no_progress)


def test_a_forecast_learns_what_whole_matrices_take(sources, probes, executor):
    forecast = Forecast(sources, executor)
    steps = {name: probe.step for name, probe in probes.items()}
    before = forecast.bytes(steps)
    forecast.learn(steps, {name: probe.nbytes for name, probe in probes.items()})
    for name, probe in probes.items():
        assert abs(forecast.bytes(steps)[name] - probe.nbytes) <= 1
        assert before[name] == pytest.approx(probe.nbytes, rel=0.15)
    half = {name: step / 2 for name, step in steps.items()}
    encoded = {name: matrix.nbytes for name, matrix in encode_all(sources, half, executor)}
    for name, expected in forecast.bytes(half).items():
        assert expected == pytest.approx(encoded[name], rel=0.02)
