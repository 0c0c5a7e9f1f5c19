"""All of a model's gradients, against central differences in float64."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reference_gpt2 import gpt2
from small_models import as_panels, random_tensors, relative_error, small_config

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.config import Activation
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn import parameters
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.tape import Tape
from rbe_cli.weights.weight_forms import dense

TOLERANCE = {np.float64: 1e-6, np.float32: 1e-3}
REFERENCE = load_kernels("reference")


def as_dense(tensors):
    """What a `Gpt2` takes, from a checkpoint's tensors."""
    return {name: own.T if is_embedding(name) else own for name, own in tensors.items()}


def as_classic(tensors):
    """The same with all matrices in the classic scheme."""
    return {
        name: ClassicMatrix.encode(np.ascontiguousarray(own), 6, 16) if is_matrix(name) else own
        for name, own in as_dense(tensors).items()
    }


FORMS = {
    "dense": as_dense,
    "panels of 4 bits": lambda tensors: as_panels(tensors, 7)[0],
    "panels of 9 bits": lambda tensors: as_panels(tensors, 200)[0],
    "classic": as_classic,
}


def objective(tensors, tokens, grad, config):
    """sum(logits * grad) by the reference, float64."""
    checkpoint = {
        name: dense(own).T if is_embedding(name) else dense(own) if is_matrix(name) else own
        for name, own in tensors.items()
    }
    logits = [gpt2(row, checkpoint, config) for row in tokens]
    return sum(np.sum(own * g) for own, g in zip(logits, grad, strict=True))


def gradients(config, tensors, kernels, tokens, grad, **tape):
    """By name, as `Gradients` sums them up."""
    model, found = Gpt2(config, tensors, kernels), Gradients()
    with Tape(**tape) as record:
        model.record(tokens, record)
        model.backward(record, grad, found)
    return found.sums


def check(config, tensors, kernels, dtype, seed):
    """Along a random change of each parameter."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, config.vocab_size, (2, min(7, config.n_positions)))
    grad = rng.standard_normal((*tokens.shape, config.vocab_size))
    exact = parameters.float64(tensors)
    given_tensors = exact if dtype is np.float64 else tensors
    found = gradients(config, given_tensors, kernels, tokens, grad.astype(dtype))
    values = parameters.split(exact)
    assert found.keys() == values.keys()
    for name, own in values.items():
        change = rng.standard_normal(own.shape)
        step = 1e-5 * (1 if own.ndim == 0 else np.abs(own).mean() + 1e-3)

        def moved(sign, name=name, own=own, step=step, change=change):
            new = parameters.join(exact, values | {name: own + sign * step * change})
            return objective(new, tokens, grad, config)

        after, before = moved(1), moved(-1)
        expected = (after - before) / (2 * step)
        # What rounding leaves of a difference of two sums.
        noise = 10 * np.finfo(np.float64).eps * (abs(after) + abs(before)) / step
        scale = np.linalg.norm(found[name]) * np.linalg.norm(change)
        error = abs(np.sum(found[name] * change) - expected)
        assert found[name].dtype == dtype
        assert error <= TOLERANCE[dtype] * max(abs(expected), 0.1 * scale) + noise, name


# Every form with one activation, and every activation where it is a step of its own (after a
# dense product) and where it is part of a compiled product (of panels).
CASES = [
    (form, name)
    for form in FORMS
    for name in get_args(Activation)
    if form in ("dense", "panels of 4 bits") or name == "gelu_new"
]


@pytest.mark.parametrize(("form", "name"), CASES)
def test_in_float64(form, name):
    config = small_config(n_layer=2, activation_function=name)
    check(config, FORMS[form](random_tensors(config)), REFERENCE, np.float64, 0)


OPTIONS = [
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"tie_word_embeddings": False},
    {"n_head": 1, "n_inner": 5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_in_float64_with_options(options):
    config = small_config(n_layer=2, **options)
    check(config, as_dense(random_tensors(config)), REFERENCE, np.float64, 1)


@pytest.mark.parametrize(("form", "name"), CASES)
def test_in_float32(kernels, form, name):
    config = small_config(n_layer=2, activation_function=name)
    check(config, FORMS[form](random_tensors(config)), kernels, np.float32, 0)


@given(
    head_dim=st.integers(1, 9),
    n_head=st.integers(1, 4),
    n_inner=st.integers(1, 40),
    vocab_size=st.integers(2, 50),
    n_positions=st.integers(2, 9),
    activation=st.sampled_from(get_args(Activation)),
    seed=st.integers(0, 1000),
)
def test_of_random_shapes(head_dim, n_head, n_inner, vocab_size, n_positions, activation, seed):
    assume(head_dim * n_head > 4)  # LayerNorm leaves next to nothing of fewer
    config = small_config(
        n_embd=head_dim * n_head, n_head=n_head, n_inner=n_inner, vocab_size=vocab_size,
        n_positions=n_positions, n_layer=2, activation_function=activation,
    )  # fmt: skip
    tensors = as_dense(random_tensors(config, seed))
    check(config, tensors, REFERENCE, np.float64, seed)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_kept_does_not_matter(kernels, form):
    """Saved, computed again, or read back from files: the same bits."""
    config = small_config()
    tensors = FORMS[form](random_tensors(config))
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, config.vocab_size, (3, 11))
    grad = rng.standard_normal((3, 11, config.vocab_size)).astype(np.float32)
    ways = [{"checkpoint": True}, {"checkpoint": False}, {"checkpoint": False, "memory_limit": 0}]
    first, *others = (gradients(config, tensors, kernels, tokens, grad, **way) for way in ways)
    for other in others:
        for name, own in first.items():
            np.testing.assert_array_equal(other[name], own)


def test_tied_embeddings_add_both_uses():
    config = small_config()
    tensors = as_dense(random_tensors(config))
    tokens = np.random.default_rng(2).integers(0, config.vocab_size, (1, 5))
    grad = np.ones((1, 5, config.vocab_size), np.float32)
    tied = gradients(config, tensors, REFERENCE, tokens, grad)["wte.weight"]
    apart = small_config(tie_word_embeddings=False)
    two = tensors | {"lm_head.weight": tensors["wte.weight"]}
    own = gradients(apart, two, REFERENCE, tokens, grad)
    both = own["wte.weight"] + own["lm_head.weight"]
    np.testing.assert_allclose(tied, both, rtol=1e-4, atol=1e-3)
    assert relative_error(own["wte.weight"], tied) > 0.1


def test_compiled_kernels_refuse_what_they_would_misread(fast):
    config = small_config()
    tensors = parameters.float64(as_dense(random_tensors(config)))
    tokens = np.ones((1, 3), np.int64)
    with pytest.raises(TypeError, match="compiled kernels take contiguous float32, not float64"):
        Gpt2(config, tensors, fast).forward(tokens)
