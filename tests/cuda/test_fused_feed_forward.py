"""The feed-forward part on the GPU gives what the CPU's layer gives."""

import numpy as np
import pytest
from device_arrays import on_device, poisoned
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from random_panels import random_matrix

from rbe_cli.cuda import device_weights
from rbe_cli.cuda.fused_feed_forward import DeviceFeedForward
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_records import ACTIVATIONS
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.linear_layer import Linear


class Case:
    """A feed-forward part on both devices, and inputs."""

    def __init__(self, form, width, inner, tokens, activation, seed):
        rng = np.random.default_rng(seed)
        matrices = [
            random_matrix(rng, *shape, form, scale=0.1)
            for shape in ((width, inner), (inner, width))
        ]
        biases = [rng.normal(size=size).astype(np.float32) for size in (inner, width)]
        self.x = rng.normal(size=(tokens, width)).astype(np.float32)
        self.residual = rng.normal(size=(tokens, width)).astype(np.float32)
        kernels = load_kernels("fast", 1)
        layers = [
            Linear(f"mlp.{name}", matrix, bias, kernels)
            for name, matrix, bias in zip(("c_fc", "c_proj"), matrices, biases, strict=True)
        ]
        self.expected = FeedForward(*layers, activation, kernels)(self.x) + self.residual
        parts = [device_weights.on_device(matrix) for matrix in matrices]
        own_biases = on_device(*biases)
        self.part = DeviceFeedForward(parts[0], own_biases[0], parts[1], own_biases[1], activation)

    def result(self):
        x, residual = on_device(self.x, self.residual)
        out = poisoned(self.x.shape)
        self.part(x, out, residual)
        return out.copy_to_host()

    def check(self):
        error = np.abs(self.result() - self.expected).max()
        assert error <= 1e-3 * np.abs(self.expected).max()


@examples(8)
@given(
    form=st.sampled_from(["even2", "bent4", "int8", "8 states"]),
    width=st.integers(1, 12),
    inner=st.integers(1, 20),
    activation=st.sampled_from(list(ACTIVATIONS)),
    seed=st.integers(0, 999),
)
def test_one_token(form, width, inner, activation, seed):
    Case(form, width, inner, 1, activation, seed).check()


@pytest.mark.parametrize("form", ["bent4", "8 states"])
def test_many_tokens(form):
    Case(form, 11, 20, 5, "gelu_new", 1).check()


A_TOKEN = 4 * 18 + 2 * 32 + 4  # hidden layer; inputs in two bytes, in whole tiles; their scale


@pytest.mark.parametrize(("limit", "kept"), [(1, 1), (3 * A_TOKEN - 1, 2), (10**6, 3)])
def test_a_limit_cuts_tokens_into_chunks_with_the_same_results(limit, kept):
    case = Case("int8", 7, 18, 3, "silu", 2)
    expected = case.result()
    assert case.part.bytes_between(3) == 3 * A_TOKEN
    limited = Case("int8", 7, 18, 3, "silu", 2)
    limited.part.memory_limit = limit
    np.testing.assert_array_equal(limited.result(), expected)
    assert limited.part.bytes_between(3) == kept * A_TOKEN


def test_no_tokens_give_nothing():
    case = Case("int8", 7, 18, 1, "silu", 2)
    case.x, case.residual = case.x[:0], case.residual[:0]
    assert case.result().shape == (0, 7)


def test_the_residual_may_be_the_output():
    case = Case("bent4", 7, 18, 1, "relu", 3)
    x, out = on_device(case.x, case.residual)
    case.part(x, out, out)
    np.testing.assert_array_equal(out.copy_to_host(), case.result())


def test_matrices_that_do_not_fit_are_refused():
    own = [device_weights.on_device(np.zeros(shape, np.float32)) for shape in ((3, 5), (5, 4))]
    with pytest.raises(UsageError, match=r"c_proj has the shape \(5, 4\), not \(5, 3\)"):
        DeviceFeedForward(own[0], None, own[1], None, "relu")
    square = device_weights.on_device(np.zeros((3, 3), np.float32))
    with pytest.raises(UsageError, match="a memory limit of 0 bytes is below 1"):
        DeviceFeedForward(square, None, square, None, "relu", 0)
