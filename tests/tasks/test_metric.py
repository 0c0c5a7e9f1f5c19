from itertools import pairwise

import numpy as np
import pytest
from reference_gpt2 import gpt2, softmax
from small_models import float64, random_tensors, relative_error, small_config

from rbe_cli.checkpoint.names import is_embedding, is_matrix
from rbe_cli.codec.feedback import OutputFactor
from rbe_cli.codec.geometry import column_blocks, trellis_order
from rbe_cli.progress import no_progress
from rbe_cli.tasks.calibration import from_model
from rbe_cli.tasks.metric import is_coded, make_sources
from rbe_cli.tasks.moments import Moments, collect
from rbe_cli.tasks.settings import Override, Settings
from rbe_cli.tasks.workers import workers

PLAIN = Settings(4.0)
FINE = 60.0  # bits a weight at which damping plays no role


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tensors(request):
    """Of a model with more tokens than a block has columns."""
    config = small_config(n_layer=1, vocab_size=1500, tie_word_embeddings=request.param)
    return random_tensors(config)


def random_moment(rng, size):
    rows = rng.normal(size=(4 * size, size))
    return (rows.T @ rows / len(rows)).astype(np.float32)


def random_moments(tensors, seed=0):
    """Moments that have nothing to do with the model."""
    rng, inputs, outputs = np.random.default_rng(seed), {}, {}
    for name, tensor in tensors.items():
        if name.startswith("h.") and is_matrix(name):
            rows, columns = tensor.shape
            inputs[name] = random_moment(rng, rows)
            widths = [part.stop - part.start for part in column_blocks(columns)]
            outputs[name] = [random_moment(rng, width) for width in widths]
    vocab, n_embd = tensors["wte.weight"].shape
    head = "lm_head.weight" if "lm_head.weight" in tensors else "wte.weight"
    inputs[head] = random_moment(rng, n_embd)
    return Moments(inputs, outputs, random_moment(rng, n_embd), rng.uniform(0, 2 / vocab, vocab))


def sources_of(tensors, moments, settings=PLAIN, bits=FINE):
    """Of copies of the moments, as they are used up."""
    copies = Moments(
        dict(moments.inputs), dict(moments.outputs), moments.embedded, moments.importance
    )
    with workers(2) as executor:
        return make_sources(tensors, copies, settings, bits, executor)


def input_moment(source):
    """The damped moment of a source's inputs, from its factors."""
    inputs = source.inputs
    lower = inputs.lower.astype(np.float64)
    moment = np.empty(lower.shape)
    moment[np.ix_(inputs.order, inputs.order)] = (lower * inputs.diagonal) @ lower.T
    return moment


def importance(source):
    """C of all columns, in their places, `[N]`."""
    parts = []
    for factor in source.outputs:
        part = np.empty(factor.diagonal.size)
        part[trellis_order(part.size)] = factor.diagonal
        parts.append(part)
    return np.concatenate(parts)


# Which matrices


def test_every_matrix_has_a_source_in_the_codec_s_orientation(tensors):
    sources = sources_of(tensors, random_moments(tensors))
    assert list(sources) == [name for name in tensors if is_matrix(name)]
    for name, source in sources.items():
        tensor = tensors[name].T if is_embedding(name) else tensors[name]
        np.testing.assert_array_equal(source.weights, tensor)
        assert source.weights.flags.c_contiguous
        widths = [part.stop - part.start for part in column_blocks(tensor.shape[1])]
        assert [factor.diagonal.size for factor in source.outputs] == widths


def test_what_is_left_as_it_is_has_none(tensors):
    kept = Override("c_proj", "float16"), Override("wte", "float32"), Override("c_fc", bits=5.0)
    settings = Settings(4.0, override=kept)
    found = sources_of(tensors, random_moments(tensors), settings)
    dense = {"h.0.attn.c_proj.weight", "h.0.mlp.c_proj.weight", "wte.weight"}
    assert found.keys() == {name for name in tensors if is_matrix(name)} - dense
    assert found.keys() == {name for name in tensors if is_coded(name, settings)}


def test_without_a_matrix_to_encode_there_are_none(tensors):
    settings = Settings(4.0, override=(Override("", "float16"),))
    assert sources_of(tensors, random_moments(tensors), settings) == {}


# Which cost


def test_linear_layers_pay_for_their_inputs_and_gradients(tensors):
    moments = random_moments(tensors)
    sources = sources_of(tensors, moments)
    names = [name for name in sources if name.startswith("h.")]
    assert len(names) == 4
    for name in names:
        source = sources[name]
        assert relative_error(input_moment(source), moments.inputs[name]) < 1e-5
        for factor, moment in zip(source.outputs, moments.outputs[name], strict=True):
            undamped = OutputFactor.from_moment(moment, 0.0)
            np.testing.assert_allclose(factor.diagonal, undamped.diagonal, rtol=1e-5)
            np.testing.assert_allclose(factor.mixing, undamped.mixing, atol=1e-5)


def test_embeddings_pay_for_each_of_their_uses(tensors):
    moments = random_moments(tensors)
    sources = sources_of(tensors, moments)
    expected = {"wpe.weight": moments.embedded}
    if "lm_head.weight" in tensors:
        expected |= {
            "wte.weight": moments.embedded,
            "lm_head.weight": moments.inputs["lm_head.weight"],
        }
    else:
        expected["wte.weight"] = moments.embedded + moments.inputs["wte.weight"]
    assert expected.keys() == {name for name in sources if is_embedding(name)}
    for name, moment in expected.items():
        assert relative_error(input_moment(sources[name]), moment) < 1e-5
        assert all(factor.mixing.size == 0 for factor in sources[name].outputs)


def test_tokens_matter_as_often_as_they_are_predicted_and_positions_alike(tensors):
    moments = random_moments(tensors)
    sources = sources_of(tensors, moments)
    mean = moments.importance.mean()
    for name in ("wte.weight", "lm_head.weight"):
        if name in sources:
            added = importance(sources[name]) - moments.importance
            np.testing.assert_allclose(added, added.mean(), atol=1e-6 * mean)
            assert 0 < added.mean() < 0.05 * mean  # so that rare tokens are not free
    positions = importance(sources["wpe.weight"])
    np.testing.assert_array_equal(positions, positions[0])
    assert 1 <= positions.sum() < 1.05


# Damping


def test_damping_halves_with_each_bit(tensors):
    moments = random_moments(tensors)
    diagonal = {
        name: [np.diag(np.diag(moment)) for moment in blocks]
        for name, blocks in moments.outputs.items()
    }
    moments = Moments(moments.inputs, diagonal, moments.embedded, moments.importance)

    def added(bits):
        """{name: what is added to the diagonal of (H, G)}, of its mean."""
        found = {}
        for name, source in sources_of(tensors, moments, bits=bits).items():
            if name.startswith("h."):
                before = np.concatenate([np.diag(moment) for moment in diagonal[name]])
                to_outputs = importance(source) - before
                np.testing.assert_allclose(to_outputs, to_outputs.mean(), atol=1e-5)
                to_inputs = source.inputs.damping / np.diag(moments.inputs[name]).mean()
                found[name] = np.array([to_inputs, to_outputs.mean() / before.mean()])
        return found

    for more, less in pairwise(added(bits) for bits in (1.0, 2.0, 3.0, 4.0)):
        assert more.keys() == less.keys()
        for name, both in more.items():
            assert (both < 1).all()
            np.testing.assert_allclose(less[name], both / 2, rtol=1e-3)


def test_moments_of_zeros_can_be_used(tensors):
    """Of a model that has learnt nothing, or whose predictions are certain."""
    moments = random_moments(tensors)
    zeros = Moments(
        {name: np.zeros_like(moment) for name, moment in moments.inputs.items()},
        {name: [np.zeros_like(part) for part in parts] for name, parts in moments.outputs.items()},
        np.zeros_like(moments.embedded),
        np.zeros_like(moments.importance),
    )
    for source in sources_of(tensors, zeros, bits=4.0).values():
        assert (source.inputs.diagonal > 0).all()
        assert (importance(source) > 0).all()
        assert np.isfinite(source.unit_step)
        assert source.unit_step > 0


# What it is all for


@pytest.fixture(scope="module")
def text(model):
    with workers(2) as executor:
        return from_model(model, 48, 0, executor, no_progress).used


@pytest.fixture(scope="module")
def measured(model, text):
    with workers(2) as executor:
        return collect(model, text, 0, executor, no_progress)


@pytest.fixture(scope="module")
def log_probabilities(checkpoint, text):
    """Of every prediction on some of the text, by the obvious model with some tensors changed."""
    tensors, config = float64(checkpoint.tensors), checkpoint.config

    def run(changed):
        moved = tensors | changed
        return np.log(softmax(np.concatenate([gpt2(row, moved, config) for row in text[:16]])))

    return run


def predicted_loss(name, change, moments):
    """tr(E^T H E G) / 2 of a change E, as the checkpoint stores the matrix."""
    if name.startswith("h."):
        (outputs,) = moments.outputs[name]
        return 0.5 * np.sum((moments.inputs[name] @ change) * (change @ outputs))
    inputs, importance = moments.embedded, moments.importance
    if name == "wte.weight":
        inputs = inputs + moments.inputs[name]
    else:
        importance = np.full(len(change), 1 / len(change))
    return 0.5 * np.sum(importance[:, None] * (change @ inputs) * change)


# Of measured over predicted losses. That of queries and keys is the least exact: which inputs
# the gradients go along with matters most where attention picks among them.
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
    """KL divergence from the model as it is, mean over predictions and random changes."""
    rng, original = np.random.default_rng(5), checkpoint.tensors[name].astype(np.float64)
    before = log_probabilities({})
    predicted, divergence = 0.0, 0.0
    for _ in range(3):
        change = 1e-3 * rng.standard_normal(original.shape)
        after = log_probabilities({name: original + change})
        predicted += predicted_loss(name, change, measured)
        divergence += np.mean(np.sum(np.exp(before) * (before - after), axis=-1))
    assert 1 / 1.5 < divergence / predicted < bound
