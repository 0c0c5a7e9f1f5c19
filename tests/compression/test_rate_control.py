import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from compressing import relative
from second_moments import output_factor
from sources import matrices_of, source_of

from rbe_cli.codec.error_cost import ErrorCost, InputFactor, OutputFactor
from rbe_cli.compression.encoding import encode_all
from rbe_cli.compression.rate_control import SizeForecast, fit
from rbe_cli.errors import UsageError
from rbe_cli.progress import no_progress

SHAPES = {"a": (64, 300), "b": (40, 120), "c": (120, 90)}
WEIGHTS = sum(rows * columns for rows, columns in SHAPES.values())


def correlated(rng, size):
    rows = rng.normal(size=(4 * size, size)) @ rng.normal(size=(size, size)) / size
    return (rows.T @ rows / len(rows)).astype(np.float32)


@pytest.fixture(scope="module")
def sources():
    """Return matrices of different scales, whose relative errors cost the same."""
    rng, found = np.random.default_rng(0), {}
    for number, (name, shape) in enumerate(SHAPES.items()):
        scale = 10.0**number
        outputs = OutputFactor.from_importance(np.full(shape[1], scale**-2))
        cost = ErrorCost(InputFactor.identity(shape[0]), (outputs,))
        found[name] = source_of(scale * rng.normal(size=shape), cost)
    return found


@pytest.fixture(scope="module")
def mixed_sources(sources):
    """Return matrices with error feedback, whose size a sample of columns predicts less well."""
    rng = np.random.default_rng(1)
    return {
        name: source_of(
            source.load_weights(),
            ErrorCost(
                InputFactor.from_moment(correlated(rng, source.shape[0]), 0.01),
                (output_factor(correlated(rng, source.shape[1]), 0.01),),
            ),
        )
        for name, source in sources.items()
    }


@pytest.fixture
def fitted(pool, new_folder):
    def run(sources, own, target, progress=no_progress, folder=None):
        encoded = fit(sources, own, target, FILE, pool, folder or new_folder(), progress)
        return matrices_of(sources, encoded)

    return run


def size(matrices):
    """Return the bits per weight of a file that holds only these matrices."""
    return 8 * sum(matrices.values()) / WEIGHTS


FILE = SimpleNamespace(bits_per_weight=size)


def reached(encoded):
    return size({name: matrix.nbytes for name, matrix in encoded.items()})


def bits(matrix):
    return 8 * matrix.nbytes / (matrix.shape[0] * matrix.shape[1])


@pytest.mark.parametrize("target", [1.5, 2.0, 3.3, 4.0, 6.0, 10.0])
def test_the_target_is_reached(sources, fitted, progress, target):
    encoded = fitted(sources, {}, target, progress)
    assert encoded.keys() == sources.keys()
    assert reached(encoded) == pytest.approx(target, rel=0.01)


@pytest.mark.parametrize("target", [1.5, 2.0, 4.0, 8.0])
def test_the_target_is_reached_with_feedback(mixed_sources, fitted, target):
    encoded = fitted(mixed_sources, {}, target)
    assert reached(encoded) == pytest.approx(target, rel=0.01)


def test_matrices_that_matter_alike_have_the_same_rate(sources, fitted):
    encoded = fitted(sources, {}, 4.0)
    for matrix in encoded.values():
        assert bits(matrix) == pytest.approx(4, abs=0.25)  # some pay for more scales a weight


def test_a_matrix_that_matters_more_has_more_bits(sources, fitted):
    outputs = OutputFactor.from_importance(np.full(120, 0.16))
    grave = source_of(sources["b"].load_weights(), ErrorCost(InputFactor.identity(40), (outputs,)))
    plain = fitted(sources, {}, 4.0)
    shifted = fitted(sources | {"b": grave}, {}, 4.0)
    relative = shifted["b"].step / shifted["a"].step * plain["a"].step / plain["b"].step
    assert relative == pytest.approx(1 / 4, rel=1e-5)  # squared errors count 16 times
    assert bits(shifted["b"]) - bits(shifted["a"]) == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_rates_of_their_own_are_kept_and_the_others_make_up_for_them(which, request, fitted):
    own = {"b": 7.0, "c": 2.0}
    encoded = fitted(request.getfixturevalue(which), own, 4.0)
    assert bits(encoded["b"]) == pytest.approx(7, rel=0.01)
    assert bits(encoded["c"]) == pytest.approx(2, rel=0.01)
    assert reached(encoded) == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_no_target_binds_where_no_rate_is_free(which, request, fitted):
    own = dict.fromkeys(SHAPES, 5.0)
    sources = request.getfixturevalue(which)
    for matrix in fitted(sources, own, 4.0).values():
        assert bits(matrix) == pytest.approx(5, rel=0.01)
    assert fitted({}, {}, 4.0) == {}


def test_zeros_cannot_have_bits_and_do_not_keep_the_others_from_theirs(mixed_sources, fitted):
    zeros = dataclasses.replace(
        mixed_sources["b"], power=0.0, load_weights=lambda: np.zeros((40, 120), np.float32)
    )
    own = {"b": 3.0, "c": 6.0}
    encoded = fitted(mixed_sources | {"b": zeros}, own, 4.0)
    assert not encoded["b"].decode().any()
    assert bits(encoded["c"]) == pytest.approx(6, rel=0.01)
    assert reached(encoded) == pytest.approx(4, rel=0.01)


def test_a_target_that_leaves_too_little_is_refused(sources, fitted):
    """The given rates of some matrices are above the target."""
    with pytest.raises(UsageError, match=r"1.0 bits a weight cannot be reached: the nearest is"):
        fitted(sources, {"a": 4.0, "c": 4.0}, 1.0)


def test_a_target_that_is_more_than_integers_take_gives_the_finest_steps(sources, fitted):
    encoded = fitted(sources, {"a": 4.0, "c": 4.0}, 14.0)
    assert reached(encoded) < 6
    assert 13 < bits(encoded["b"]) < 17
    weights = sources["b"].load_weights()
    assert relative(weights - encoded["b"].decode(), weights) < 1e-4


def test_a_size_that_must_not_be_exceeded_is_not(mixed_sources, fitted, pool, new_folder):
    """The limit holds even if the nearest file is larger."""
    nearest = reached(fitted(mixed_sources, {}, 4.0))
    most = nearest - 1e-4
    arguments = mixed_sources, {}, 4.0, FILE, pool, new_folder(), no_progress, most
    assert 0.99 * most < reached(matrices_of(mixed_sources, fit(*arguments))) <= most


@pytest.mark.parametrize("which", ["sources", "mixed_sources"])
def test_a_forecast_learns_what_whole_matrices_take(which, request, pool):
    sources = request.getfixturevalue(which)

    def written(steps):
        return {name: len(data) for name, data in encode_all(sources, steps, pool)}

    forecast = SizeForecast(sources, pool)
    steps = {name: 0.3 * float(source.load_weights().std()) for name, source in sources.items()}
    before, whole = forecast.bytes(steps), written(steps)
    forecast.learn(steps, whole)
    for name, nbytes in forecast.bytes(steps).items():
        assert abs(nbytes - whole[name]) <= 1
        assert before[name] == pytest.approx(nbytes, rel=0.15)
    half = {name: step / 2 for name, step in steps.items()}
    expected = written(half)
    for name, nbytes in forecast.bytes(half).items():
        assert nbytes == pytest.approx(expected[name], rel=0.02)


def test_unfinished_work_is_taken_up(sources, fitted, folder):
    """Whatever an earlier run finished, the rest is encoded and the bytes are the same."""
    first = fitted(sources, {"b": 5.0}, 4.0, folder=folder)
    records = sorted(folder.path.glob("*.npz"))
    assert len(records) >= 4
    for record in records:
        content = record.read_bytes()
        record.unlink()
        again = fitted(sources, {"b": 5.0}, 4.0, folder=folder)
        assert {n: m.to_bytes() for n, m in again.items()} == {
            n: m.to_bytes() for n, m in first.items()
        }
        assert record.read_bytes() == content
