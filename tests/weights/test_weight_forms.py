"""A weight matrix is treated alike in all its forms: as an array, in panels, or as surfaces."""

import numpy as np
import pytest
from random_panels import FORMS, random_matrix

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.weights import weight_forms


def an_array():
    return np.random.default_rng(0).normal(size=(40, 20)).astype(np.float32)


def test_an_array_is_its_own_parameter():
    weights = an_array()
    assert weight_forms.decoded(weights) is weights
    assert weight_forms.dense(weights) is weights
    assert not weight_forms.is_packed(weights)
    assert weight_forms.kept_bytes(weights) == 0
    assert weight_forms.parameters(weights) == {"": weights}
    assert weight_forms.with_parameters(weights, {"": 2 * weights}) is not weights
    other = 2 * weights
    assert weight_forms.with_parameters(weights, {"": other}) is other
    assert weight_forms.parameter_gradients(weights, other) == {"": other}


@pytest.mark.parametrize("form", FORMS)
def test_panels_are_multiplied_by_as_they_are(form):
    matrix = random_matrix(np.random.default_rng(0), 40, 20, form)
    assert weight_forms.decoded(matrix) is matrix
    assert weight_forms.is_packed(matrix)
    assert weight_forms.kept_bytes(matrix) == 0
    np.testing.assert_array_equal(weight_forms.dense(matrix), matrix.dense())


@pytest.mark.parametrize("form", FORMS)
def test_the_parameters_of_panels_are_their_steps(form):
    rng = np.random.default_rng(0)
    matrix = random_matrix(rng, 40, 20, form)
    parameters = weight_forms.parameters(matrix)
    assert {name: own.shape for name, own in parameters.items()} == {
        ".row_steps": (40,),
        ".column_steps": (20,),
    }
    values = {name: 2 * own for name, own in parameters.items()}
    again = weight_forms.with_parameters(matrix, values)
    np.testing.assert_array_equal(weight_forms.dense(again), 4 * matrix.dense())
    assert again.values is matrix.values


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_steps_are_those_of_the_weights(form):
    """The weights are linear in the steps of the rows, and in those of the columns."""
    rng = np.random.default_rng(0)
    matrix = random_matrix(rng, 40, 20, form)
    grad = rng.normal(size=(40, 20))
    gradients = weight_forms.parameter_gradients(matrix, grad)
    for name, own in weight_forms.parameters(matrix).items():
        direction = rng.normal(size=own.shape)
        values = weight_forms.parameters(matrix) | {name: direction}
        change = (grad * weight_forms.with_parameters(matrix, values).dense()).sum()
        assert float(gradients[name] @ direction) == pytest.approx(float(change), rel=1e-4)


def test_surfaces_are_decoded_once_and_kept():
    matrix = ClassicMatrix.encode(an_array(), 6.0, 16)
    assert not weight_forms.is_packed(matrix)
    assert weight_forms.kept_bytes(matrix) == 0
    np.testing.assert_array_equal(weight_forms.dense(matrix), matrix.decode())
    assert weight_forms.kept_bytes(matrix) == 4 * 40 * 20
    assert set(weight_forms.parameters(matrix)) == {".surfaces", ".coefficients"}
