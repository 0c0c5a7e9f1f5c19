import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from reference_gpt2 import gpt2, softmax
from small_models import float64, relative_error

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import ErrorCost, OutputFactor
from rbe_cli.codec.scales import column_levels
from rbe_cli.compression.calibration import from_model
from rbe_cli.compression.metric import input_factor, make_cost, measure
from rbe_cli.compression.moments import collect
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.jobs.workers import workers
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress

MANY = 10**9  # tokens: few enough of them would ask for more damping
FINEST = 2.0**-8  # of the damping at 0 bits: what is left of it at high rates


def random_moment(rng, size):
    rows = rng.normal(size=(4 * size, size))
    return (rows.T @ rows / len(rows)).astype(np.float32)


def damped(moment, damping):
    """Return the moment with `damping` times its mean diagonal added."""
    return moment + damping * np.diag(moment).mean() * np.eye(len(moment))


def blocks_of(columns):
    return [part.stop - part.start for part in column_blocks(columns)]


@pytest.fixture
def weights():
    """Return a matrix with more columns than a block has."""
    return np.random.default_rng(0).normal(size=(40, 1500)).astype(np.float32)


@pytest.fixture
def moments(weights):
    """Return (H, [G of each block])."""
    rng = np.random.default_rng(1)
    rows, columns = weights.shape
    return random_moment(rng, rows), [random_moment(rng, width) for width in blocks_of(columns)]


@pytest.fixture
def tokens(weights):
    """Return the importance of each column, by block."""
    columns = weights.shape[1]
    importance = np.random.default_rng(2).uniform(0, 2 / columns, columns)
    return [importance[part] for part in column_blocks(columns)]


def input_moment(cost):
    """Return the damped moment of the inputs, computed from its factors."""
    inputs = cost.inputs
    lower = inputs.lower.astype(np.float64)
    moment = np.empty(lower.shape)
    moment[np.ix_(inputs.order, inputs.order)] = (lower * inputs.diagonal) @ lower.T
    return moment


def importance(cost):
    """Return C of all columns in their original order, `[N]`."""
    return np.concatenate([factor.diagonal for factor in cost.outputs])


# The cost of a matrix


def test_linear_layers_pay_for_their_inputs_and_gradients(weights, moments):
    inputs, outputs = moments
    cost = make_cost(weights, inputs, outputs, "kl", 60.0, MANY)
    assert relative_error(input_moment(cost), damped(inputs, 0.2 * FINEST)) < 1e-5
    blocks = column_blocks(weights.shape[1])
    for columns, factor, moment in zip(blocks, cost.outputs, outputs, strict=True):
        levels = column_levels(weights[:, columns])
        expected = OutputFactor.from_moment(moment, 0.6 * FINEST, levels)
        np.testing.assert_allclose(factor.diagonal, expected.diagonal, rtol=1e-5)
        np.testing.assert_allclose(factor.mixing, expected.mixing, atol=1e-5)


def test_tokens_pay_by_their_importance_and_rare_ones_are_not_free(weights, moments, tokens):
    cost = make_cost(weights, moments[0], tokens, "kl", 60.0, MANY)
    assert all(factor.mixing.size == 0 for factor in cost.outputs)
    known = np.concatenate(tokens)
    added = importance(cost) - known
    np.testing.assert_allclose(added, added.mean(), atol=1e-6 * known.mean())
    assert 0 < added.mean() < 0.05 * known.mean()


def test_the_objective_of_outputs_counts_errors_over_the_output_s_power(weights, moments, tokens):
    inputs, outputs = moments
    for scale in (1e-3, 1.0, 1e3):
        cost = make_cost(scale * weights, inputs, outputs, "outputs", 60.0, MANY)
        assert all(factor.mixing.size == 0 for factor in cost.outputs)
        power = np.sum(scale**2 * weights * (inputs @ weights))
        np.testing.assert_allclose(importance(cost), 1 / power, rtol=0.05)
        assert relative_error(input_moment(cost), damped(inputs, 0.2 * FINEST)) < 1e-5
    known = np.concatenate(tokens)
    cost = make_cost(weights, inputs, tokens, "outputs", 60.0, MANY)
    power = np.sum(weights * (inputs @ weights) * known)
    np.testing.assert_allclose(importance(cost), known / power, atol=0.05 * known.mean() / power)


def test_damping_halves_with_each_bit(weights, moments):
    inputs, outputs = moments
    outputs = [np.diag(np.diag(moment)) for moment in outputs]
    before = np.concatenate([np.diag(moment) for moment in outputs])

    def added(bits):
        """Return what is added to the diagonals of (H, G), relative to their means."""
        cost = make_cost(weights, inputs, outputs, "kl", bits, MANY)
        to_outputs = importance(cost) - before
        to_inputs = cost.inputs.damping / np.diag(inputs).mean()
        return np.array([to_inputs, to_outputs.mean() / before.mean()])

    for more, less in pairwise(added(bits) for bits in (1.0, 2.0, 3.0, 4.0)):
        assert (more < 1).all()
        np.testing.assert_allclose(less, more / 2, rtol=1e-3)
    np.testing.assert_array_equal(added(8.0), added(12.0))  # the least there is


@pytest.mark.parametrize("tokens", [1, 60, 4000, 10**7])
def test_moments_of_few_tokens_are_damped_more(tokens):
    """The damping is the oracle-approximating shrinkage, equation 23 of Chen et al. (2010)."""
    rng, size = np.random.default_rng(0), 30
    rows = rng.normal(size=(tokens if tokens < 5000 else 5000, size)) * np.arange(1, size + 1)
    moment = rows.T @ rows / len(rows)
    square, trace = np.trace(moment @ moment), np.trace(moment)
    share = (1 - 2 / size) * square + trace**2
    share /= (tokens + 1 - 2 / size) * (square - trace**2 / size)
    expected = min(share / (1 - share), 1e3) if share < 1 else 1e3
    factor = input_factor(moment, 8.0, tokens)
    found = factor.damping / np.diag(moment).mean()
    assert found == pytest.approx(max(expected, 0.2 * FINEST), rel=1e-6)


def test_moments_of_zeros_can_be_used(weights, moments, tokens):
    """Such moments occur in an untrained model, or if predictions are certain."""
    zeros = np.zeros_like(moments[0])
    for objective in ("kl", "outputs"):
        for outputs in (moments[1], tokens):
            none = [np.zeros_like(part) for part in outputs]
            cost = make_cost(weights, zeros, none, objective, 4.0, MANY)
            assert (cost.inputs.diagonal > 0).all()
            assert (importance(cost) > 0).all()
            assert 0 < cost.unit_step < np.inf


def test_costs_survive_the_work_folder(weights, moments, tokens, folder):
    for outputs in (moments[1], tokens):
        cost = make_cost(weights, moments[0], outputs, "kl", 3.0, MANY)
        folder.save("cost", cost.to_arrays())
        again = ErrorCost.from_arrays(folder.require("cost"))
        assert again.unit_step == cost.unit_step
        assert again.inputs.damping == cost.inputs.damping
        for name, array in cost.to_arrays().items():
            np.testing.assert_array_equal(again.to_arrays()[name], array)


def test_a_block_that_nothing_depends_on_costs_what_the_others_do(weights, moments):
    """The columns of the block have the same cost as the mean of the others."""
    inputs, outputs = moments
    dead = [outputs[0], np.zeros_like(outputs[1])]
    cost = make_cost(weights, inputs, dead, "kl", 4.0, MANY)
    mean = np.mean(np.concatenate([np.diag(part) for part in dead]))
    np.testing.assert_allclose(cost.outputs[1].diagonal, mean, rtol=1e-6)


# All of a model


def measured_of(checkpoint, kernels, settings, pool, folder):
    model = Gpt2.from_checkpoint(checkpoint.config, checkpoint.tensors, kernels)
    tokens = [np.arange(60), np.arange(60, 90)]
    plans = make_plan(checkpoint.config, settings)
    rest = settings.objective, 4.0, 0, pool, folder, no_progress
    arguments = checkpoint.tensors, tokens, plans, *rest
    return measure(model, *arguments)


def test_every_matrix_that_is_coded_has_a_cost(checkpoint, kernels, pool, folder):
    kept = Override("c_proj", "float16"), Override("wte", "float32"), Override("c_fc", bits=5.0)
    settings = Settings(4.0, override=kept)
    metric = measured_of(checkpoint, kernels, settings, pool, folder)
    matrices = {name for name in checkpoint.tensors if is_matrix(name)}
    dense = {name for name in matrices if "c_proj" in name or "wte" in name}
    assert metric.unit_steps.keys() == matrices - dense
    assert metric.squares.keys() == checkpoint.tensors.keys() - matrices
    for name, unit_step in metric.unit_steps.items():
        cost = metric.cost(name)
        shape = checkpoint.tensors[name].shape
        rows, columns = shape[::-1] if is_embedding(name) else shape
        assert len(cost.inputs.order) == rows
        assert [factor.diagonal.size for factor in cost.outputs] == blocks_of(columns)
        assert cost.unit_step == unit_step > 0


def test_what_was_measured_before_is_read(checkpoint, kernels, pool, folder, monkeypatch):
    first = measured_of(checkpoint, kernels, Settings(4.0), pool, folder)
    monkeypatch.setattr("rbe_cli.compression.metric.collect", None)
    again = measured_of(checkpoint, kernels, Settings(4.0), pool, folder)
    assert again.unit_steps == first.unit_steps
    np.testing.assert_equal(again.squares, first.squares)


def test_a_matrix_that_nothing_depends_on_has_the_rate_of_the_others(
    checkpoint, kernels, pool, folder
):
    """The second of two layers adds nothing to the residual stream."""
    names = ("h.1.attn.c_proj.weight", "h.1.mlp.c_proj.weight")
    zeros = {name: np.zeros_like(checkpoint.tensors[name]) for name in names}
    changed = dataclasses.replace(checkpoint, tensors=dict(checkpoint.tensors) | zeros)
    steps = measured_of(changed, kernels, Settings(4.0), pool, folder).unit_steps
    dead = ["h.1.attn.c_attn.weight", "h.1.mlp.c_fc.weight"]
    octaves = {
        name: np.log2(np.sqrt(np.mean(checkpoint.tensors[name].astype(np.float64) ** 2)) / step)
        for name, step in steps.items()
        if name not in zeros
    }
    live = {name: octave for name, octave in octaves.items() if name not in dead}
    for name in dead:
        assert min(live.values()) < octaves[name] < max(live.values())


# What it is all for


@pytest.fixture(scope="module")
def text(checkpoint, new_folder):
    with workers(2) as pool:
        return from_model(checkpoint, 48, 0, pool, new_folder(), no_progress).used


@pytest.fixture(scope="module")
def measured(model, text, new_folder):
    """Return (H, G or the importance of columns) by name."""
    found = {}
    with workers(2) as pool:
        for _, part in collect(model, text, 0, pool, new_folder(), no_progress):
            found |= {name: (part.inputs[name], part.outputs[name][0]) for name in part.inputs}
    return found


@pytest.fixture(scope="module")
def log_probabilities(checkpoint, text):
    """Return a function that gives the log probabilities of the model with some tensors changed."""
    tensors, config = float64(checkpoint.tensors), checkpoint.config

    def run(changed):
        moved = tensors | changed
        return np.log(softmax(np.concatenate([gpt2(row, moved, config) for row in text[:16]])))

    return run


def predicted_loss(change, inputs, outputs):
    """Return tr(E^T H E G) / 2 of a change E `[K, N]`."""
    if outputs.ndim == 1:
        outputs = np.diag(outputs)
    return 0.5 * np.sum((inputs @ change) * (change @ outputs))


# Bounds of measured / predicted loss. The prediction is least exact for queries and keys, where the
# correlation of inputs and gradients, which the Kronecker factors ignore, matters most.
BOUNDS = {"attn.c_attn": 3.5, "attn.c_proj": 1.5, "mlp.c_fc": 1.5, "mlp.c_proj": 1.5}
LAYERS = [(f"h.{layer}.{part}.weight", bound) for layer in (0, 1) for part, bound in BOUNDS.items()]


@pytest.mark.parametrize(
    ("name", "bound"),
    [*LAYERS, ("wte.weight", 1.2), ("wpe.weight", 1.2)],
    ids=lambda part: str(part),
)
def test_the_loss_of_a_small_change_is_foretold(
    checkpoint, measured, log_probabilities, name, bound
):
    """Compare with the KL divergence from the original, averaged over predictions and changes."""
    rng, original = np.random.default_rng(5), checkpoint.tensors[name].astype(np.float64)
    before = log_probabilities({})
    predicted, divergence = 0.0, 0.0
    for _ in range(3):
        change = 1e-3 * rng.standard_normal(original.shape)
        after = log_probabilities({name: original + change})
        predicted += predicted_loss(change.T if is_embedding(name) else change, *measured[name])
        divergence += np.mean(np.sum(np.exp(before) * (before - after), axis=-1))
    assert 1 / 1.5 < divergence / predicted < bound
