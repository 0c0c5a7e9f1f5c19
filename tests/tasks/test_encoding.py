import numpy as np
import pytest

from rbe_cli.codec.feedback import Feedback
from rbe_cli.codec.matrix import column_blocks, encode_block
from rbe_cli.tasks.encoding import Source, encode_all, sampled_bits
from rbe_cli.tasks.workers import workers


def random_source(rows, columns, seed, with_inputs=True):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(4 * rows, rows)) * np.arange(1, rows + 1)
    hessian = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    weights = rng.normal(size=(rows, columns)).astype(np.float32)
    return Source(weights, Feedback.from_hessian(hessian) if with_inputs else None)


@pytest.fixture(scope="module")
def sources():
    return {
        "wide": random_source(9, 2500, 0),
        "tall": random_source(150, 7, 1),
        "alone": random_source(70, 60, 2, with_inputs=False),
    }


STEPS = {"wide": 0.3, "tall": 0.1, "alone": 0.7}


def encode(sources, threads):
    with workers(threads) as executor:
        return dict(encode_all(sources, STEPS, executor))


def test_a_matrix_is_the_blocks_of_its_columns(sources):
    encoded = encode(sources, 2)
    assert list(encoded) == list(sources)
    for name, source in sources.items():
        matrix, step = encoded[name], float(np.float32(STEPS[name]))
        assert matrix.shape == source.weights.shape
        assert matrix.step == step
        columns = column_blocks(matrix.shape[1])
        for block, part in zip(matrix.blocks, columns, strict=True):
            weights = np.ascontiguousarray(source.weights[:, part])
            alone = encode_block(weights, source.feedback, step)
            np.testing.assert_array_equal(block.words, alone.words)
            np.testing.assert_array_equal(block.states, alone.states)


def test_bytes_do_not_depend_on_the_threads(sources):
    first = {name: matrix.to_bytes() for name, matrix in encode(sources, 1).items()}
    for threads in (2, 3, 7):
        again = {name: matrix.to_bytes() for name, matrix in encode(sources, threads).items()}
        assert again == first


def test_a_sample_of_all_columns_is_the_matrix(sources, executor):
    encoded = encode(sources, 1)
    bits = sampled_bits(sources, STEPS, executor)
    for name in ("tall", "alone"):
        block = encoded[name].blocks[0]
        assert bits[name] == 8 * block.nbytes / sources[name].weights.size


def test_a_sample_tells_of_the_whole(executor):
    source = random_source(200, 3000, 3)
    (matrix,) = [matrix for _, matrix in encode_all({"a": source}, {"a": 0.2}, executor)]
    whole = 8 * matrix.nbytes / source.weights.size
    assert sampled_bits({"a": source}, {"a": 0.2}, executor)["a"] == pytest.approx(whole, rel=0.03)
