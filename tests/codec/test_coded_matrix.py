"""A matrix that stays entropy-coded in memory is the same matrix as in panels."""

import numpy as np
import pytest
from encoded_matrices import encode, gaussian

from rbe_cli.codec.codec import CodecOptions
from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.errors import UsageError

WIDE = CodedMatrix(encode(gaussian((33, 1100)), 0.4))


def test_it_takes_as_many_bytes_as_in_the_file():
    assert WIDE.nbytes == len(WIDE.encoded.to_bytes())
    assert WIDE.kept_bytes == 0
    assert WIDE.shape == (33, 1100)
    assert WIDE.is_packed


@pytest.mark.parametrize(("columns", "largest"), [(5, 5), (1024, 1024), (1025, 513), (1100, 550)])
def test_a_thread_decodes_one_block_at_a_time(columns, largest):
    assert CodedMatrix(encode(gaussian((3, columns)), 0.4)).block_weights == 3 * largest


def test_its_parameters_are_those_of_its_panels():
    panels = WIDE.decoded()
    parameters = WIDE.parameters()
    assert set(parameters) == {".row_steps", ".column_steps"}
    for name, own in panels.parameters().items():
        np.testing.assert_array_equal(parameters[name], own)
    doubled = WIDE.with_parameters({name: 2 * own for name, own in parameters.items()})
    np.testing.assert_array_equal(doubled.dense(), 4 * WIDE.encoded.decode())
    grad = gaussian(WIDE.shape, 1)
    for name, own in panels.parameter_gradients(grad).items():
        np.testing.assert_array_equal(WIDE.parameter_gradients(grad)[name], own)


def test_steps_of_rows_cannot_be_written():
    values = WIDE.parameters()
    values[".row_steps"] = values[".row_steps"] * np.float32(1.5)
    with pytest.raises(UsageError, match="stores steps of columns only, but steps of rows"):
        ECTCQ.with_parameters_of(WIDE.encoded.to_bytes(), WIDE.shape, WIDE.with_parameters(values))


def test_plain_rounding_errs_as_theory_says():
    """4^-b with b bits a weight (Cover and Thomas 2006, section 10.3.2), beside the scales."""
    shape = (1000, 1000)
    side = ECTCQ.side_bits(shape) / 1e6
    assert ECTCQ.plain_error_power(3 + side, shape, CodecOptions(), 0.0) == pytest.approx(1 / 64)
    assert ECTCQ.plain_error_power(side - 1, shape, CodecOptions(), 0.0) == 1
