import numpy as np
import pytest
from second_moments import output_factor
from sources import encode as encode_one
from sources import matrices_of, source_of

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import encode_block
from rbe_cli.codec.error_cost import ErrorCost, InputFactor, OutputFactor
from rbe_cli.compression.encoding import encode_all, sampled_bits
from rbe_cli.jobs.workers import workers


def random_moment(rng, size):
    rows = rng.normal(size=(4 * size, size)) * np.arange(1, size + 1)
    return (rows.T @ rows / len(rows)).astype(np.float32)


def random_source(rows, columns, seed, *, mixed=True, scale=1.0):
    """Return a source with correlated inputs, and correlated or differently important outputs."""
    rng = np.random.default_rng(seed)
    inputs = InputFactor.from_moment(random_moment(rng, rows), 0.01)
    outputs = tuple(
        output_factor(random_moment(rng, part.stop - part.start), 0.01)
        if mixed
        else OutputFactor.from_importance(rng.uniform(0.1, 9, part.stop - part.start))
        for part in column_blocks(columns)
    )
    weights = scale * rng.normal(size=(rows, columns))
    return source_of(weights, ErrorCost(inputs, outputs))


@pytest.fixture(scope="module")
def sources():
    return {
        "wide": random_source(9, 2500, 0, mixed=False),
        "tall": random_source(150, 7, 1),
        "square": random_source(70, 60, 2),
        "embedding": random_source(30, 64, 3, mixed=False),
    }


STEPS = {"wide": 0.3, "tall": 0.1, "square": 0.7, "embedding": 0.2}


def encode(sources, threads):
    with workers(threads) as pool:
        return matrices_of(sources, dict(encode_all(sources, STEPS, pool)))


def bits(source, step, pool):
    """Return the bits per weight of (a sample, the whole matrix)."""
    matrix = encode_one(source, step, pool)
    sampled = sampled_bits({"a": source}, {"a": step}, pool)["a"]
    return sampled, 8 * sum(block.nbytes for block in matrix.blocks) / source.size


def test_a_matrix_is_the_blocks_of_its_columns(sources):
    encoded = encode(sources, 2)
    assert list(encoded) == list(sources)
    for name, source in sources.items():
        matrix, step = encoded[name], float(np.float32(STEPS[name]))
        assert matrix.shape == source.shape
        assert matrix.step == step
        columns = column_blocks(matrix.shape[1])
        cost = source.load_cost()
        for block, part, outputs in zip(matrix.blocks, columns, cost.outputs, strict=True):
            weights = np.ascontiguousarray(source.load_weights()[:, part])
            alone = encode_block(weights, step, cost.inputs, outputs, cost.unit)
            np.testing.assert_array_equal(block.words, alone.words)
            np.testing.assert_array_equal(block.states, alone.states)


def test_the_step_is_that_of_columns_of_mean_importance(sources):
    for name, matrix in encode(sources, 2).items():
        steps = np.concatenate([steps for _, _, steps in matrix.decoded_blocks()])
        assert np.exp(np.mean(np.log(steps))) == pytest.approx(STEPS[name], rel=0.05)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_at_the_unit_step_errors_cost_what_they_cost_anywhere(pool, scale):
    """Weights, inputs and outputs may have any scale: the error follows from the step."""
    source = random_source(200, 90, 4, mixed=False, scale=scale)
    rng = np.random.default_rng(4)
    moment = np.diag(rng.uniform(0.1, 9, 200) / scale**2).astype(np.float32)
    importance = rng.uniform(0.1, 9, 90)
    inputs, outputs = InputFactor.from_moment(moment, 0.0), OutputFactor.from_importance(importance)
    source = source_of(source.load_weights(), ErrorCost(inputs, (outputs,)))
    step = 0.1 * source.unit_step
    matrix = encode_one(source, step, pool)
    change = (source.load_weights() - matrix.decode()).astype(np.float64)
    loss = np.sum(np.diag(moment)[:, None] * importance * change**2)
    assert loss / source.size == pytest.approx(0.27 * 0.1**2, rel=0.05)


def test_bytes_do_not_depend_on_the_threads(sources):
    first = {name: matrix.to_bytes() for name, matrix in encode(sources, 1).items()}
    for threads in (2, 3, 7):
        again = {name: matrix.to_bytes() for name, matrix in encode(sources, threads).items()}
        assert again == first


def test_a_sample_of_all_columns_is_the_matrix_where_columns_are_not_mixed(sources, pool):
    sampled, whole = bits(sources["embedding"], 0.2, pool)
    assert sampled == whole


def test_a_sample_tells_of_the_whole(pool):
    """A sample takes more bits, as fewer columns share its row scales and its header."""
    sampled, whole = bits(random_source(200, 3000, 3, mixed=False), 0.2, pool)
    assert 0 < sampled - whole < 0.15


def test_a_sample_tells_something_of_mixed_columns(pool):
    """The whole matrix takes more bits, because error feedback mixes its columns."""
    sampled, whole = bits(random_source(200, 300, 3), 0.2, pool)
    assert sampled == pytest.approx(whole, rel=0.05)
