from itertools import islice
from typing import Any

import numpy as np
import pytest
import reference_gpt2
from compressing import relative
from hypothesis import given
from hypothesis import strategies as st
from reference_gpt2 import gpt2, softmax
from small_models import float64, random_tensors, relative_error, small_config

from rbe_cli.compression.moments import Moments, collect, squares
from rbe_cli.errors import CheckpointError
from rbe_cli.jobs.workers import workers
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress


@pytest.fixture(scope="module")
def sequences(config):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, n) for n in [64] * 50 + [7, 7, 64, 2]]


def small_model(kernels, **options):
    """Return (model, its tensors in float64)."""
    config = small_config(**options)
    tensors = random_tensors(config)
    return Gpt2.from_checkpoint(config, tensors, kernels), float64(tensors)


@pytest.fixture(scope="module")
def collected(new_folder):
    """Run `collect`, and join the parts."""

    def run(model, sequences, threads=2, seed=0, progress=no_progress, folder=None):
        whole = Moments()
        with workers(threads) as pool:
            parts = collect(model, sequences, seed, pool, folder or new_folder(), progress)
            for _, part in parts:
                whole.inputs.update(part.inputs)
                whole.outputs.update(part.outputs)
                whole.squares.update(part.squares)
        return whole

    return run


def arrays_of(moments):
    """Return every array under a unique name."""
    found: dict[tuple[str | int, ...], Any] = {
        ("input", name): moment for name, moment in moments.inputs.items()
    }
    for name, blocks in moments.outputs.items():
        found |= {("output", name, block): moment for block, moment in enumerate(blocks)}
    return found | {("square", name): values for name, values in moments.squares.items()}


# Activations


@pytest.fixture
def inputs_of(monkeypatch):
    """Run the simple GPT-2, and return the inputs of each weight, float64 `[tokens, K]`."""
    seen = {}
    linear, layer_norm = reference_gpt2.linear, reference_gpt2.layer_norm

    def seen_linear(x, name, tensors):
        seen.setdefault(f"{name}.weight", []).append(x)
        return linear(x, name, tensors)

    def seen_layer_norm(x, name, tensors, config):
        out = layer_norm(x, name, tensors, config)
        if name == "ln_f":
            head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
            seen.setdefault(head, []).append(out)
        return out

    monkeypatch.setattr(reference_gpt2, "linear", seen_linear)
    monkeypatch.setattr(reference_gpt2, "layer_norm", seen_layer_norm)

    def run(sequences, tensors, config):
        for tokens in sequences:
            gpt2(tokens, tensors, config)
        return {name: np.concatenate(parts) for name, parts in seen.items()}

    return run


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_moments_of_inputs_are_those_of_the_obvious_model(
    kernels, inputs_of, progress, tied, collected
):
    model, tensors = small_model(kernels, tie_word_embeddings=tied)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, model.config.vocab_size, n) for n in (40, 40, 40, 7, 7, 40, 2)]
    found = collected(model, sequences, progress=progress).inputs
    embedded, token = found.pop("wpe.weight"), found["wte.weight"]
    found["wte.weight"] = token - 2 * embedded  # of the head alone, if tied
    if not tied:
        assert not found.pop("wte.weight").any()
    inputs = inputs_of(sequences, tensors, model.config)
    assert found.keys() == inputs.keys() == {linear.name for linear in model.linears()}
    for name, moment in found.items():
        x = inputs[name]
        assert len(x) == sum(map(len, sequences))
        expected = x.T @ x / len(x)
        assert moment.dtype == np.float32
        assert np.abs(moment - expected).max() <= 1e-5 * np.diag(expected).max()
        np.testing.assert_allclose(moment, moment.T, atol=1e-6 * np.diag(expected).max())


def test_tokens_matter_by_the_mean_variance_of_their_prediction_and_positions_alike(
    model, checkpoint, sequences, collected
):
    tensors, config = float64(checkpoint.tensors), checkpoint.config
    p = np.concatenate([softmax(gpt2(tokens, tensors, config)) for tokens in sequences])
    outputs = collected(model, sequences).outputs
    (importance,) = outputs["wte.weight"]
    assert importance.dtype == np.float64
    expected = np.mean(p * (1 - p), axis=0) + 1e-3 / p.shape[1]  # every logit counts a little
    np.testing.assert_allclose(importance, expected, rtol=1e-4)
    np.testing.assert_array_equal(outputs["wpe.weight"], [np.full(64, 1 / 64)])


# Gradients


def curvature(tokens, name, tensors, config):
    """Return the curvature of the KL divergence with respect to an array added at each position.

    It is the mean over positions of the sum over predictions of J^T (diag(p) - p p^T) J, with J by
    central differences. This is the second moment of the gradient of -log p(y), with y drawn from
    each prediction.
    """
    p = softmax(gpt2(tokens, tensors, config))  # [seq, vocab]
    fisher = p[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * p[:, None]  # [seq, vocab, vocab]
    step, seq = 1e-5, len(tokens)
    original = tensors[name][:seq] if name == "wpe.weight" else tensors[name]  # [seq, N] or [N]
    total = 0.0
    for position in range(seq):
        sides = []
        for n in range(original.shape[-1]):
            change = np.zeros((seq, original.shape[-1]))
            change[position, n] = step
            above, below = (
                gpt2(tokens, tensors | {name: original + sign * change}, config) for sign in (1, -1)
            )
            sides.append((above - below) / (2 * step))  # [seq, vocab]
        jacobian = np.stack(sides, axis=-1)  # [seq, vocab, N]
        total += np.einsum("tvn,tvw,twm->nm", jacobian, fisher, jacobian)
    return total / seq


def test_moments_of_gradients_are_the_curvature_of_the_divergence(kernels, collected):
    """12000 sampled tokens give the moments of all tokens within some per cent."""
    model, tensors = small_model(
        kernels, vocab_size=7, n_positions=4, n_embd=4, n_layer=2, n_head=2, n_inner=5
    )
    kinds = [np.array([3, 0, 6]), np.array([1, 5, 5])]
    found = collected(model, 2000 * kinds)
    moments = {
        name.replace("weight", "bias"): blocks
        for name, blocks in found.outputs.items()
        if blocks[0].ndim == 2
    }
    moments["wpe.weight"] = [found.inputs["wpe.weight"]]
    assert len(moments) == 4 * 2 + 1
    assert len(found.squares) == 8 * 2 + 2
    for name in moments | found.squares:
        expected = np.mean([curvature(k, name, tensors, model.config) for k in kinds], axis=0)
        if name in moments:
            assert relative(moments[name][0] - expected, expected) < 0.05, name
        if name in found.squares:
            diagonal = np.diag(expected)
            assert relative(found.squares[name] - diagonal, diagonal) < 0.05, name


def test_moments_of_wide_outputs_come_in_the_codec_s_blocks(kernels, collected):
    config = small_config(n_layer=1, n_embd=6, n_inner=1030, activation_function="relu")
    tensors = random_tensors(config)
    tensors["h.0.mlp.c_fc.bias"] += 100  # so that relu lets everything through
    model = Gpt2.from_checkpoint(config, tensors, kernels)
    found = collected(model, [np.arange(40), np.arange(40)])
    assert found.inputs["h.0.mlp.c_proj.weight"].shape == (1030, 1030)
    assert len(found.outputs["h.0.attn.c_attn.weight"]) == 1
    (after,) = found.outputs["h.0.mlp.c_proj.weight"]
    weights = tensors["h.0.mlp.c_proj.weight"]
    blocks = found.outputs["h.0.mlp.c_fc.weight"]
    for block, part in zip(blocks, (weights[:515], weights[515:]), strict=True):
        assert relative_error(block, part @ after @ part.T) < 1e-4


# Reproducibility


def test_moments_do_not_depend_on_the_threads(model, sequences, collected):
    first = arrays_of(collected(model, sequences, threads=1))
    for threads in (2, 3):
        again = arrays_of(collected(model, sequences, threads=threads))
        assert again.keys() == first.keys()
        for name, array in again.items():
            np.testing.assert_array_equal(array, first[name])


def test_the_seed_draws_the_tokens_whose_gradients_are_taken(model, sequences, collected):
    first, again, other = (
        arrays_of(collected(model, sequences[:4], seed=seed)) for seed in (3, 3, 4)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
        is_embedding = name[1] in ("wte.weight", "wpe.weight")
        if (name[0] == "input") != is_embedding:  # of activations
            np.testing.assert_array_equal(other[name], array)
        else:
            assert 0.01 < relative_error(other[name], array) < 1


def test_one_sequence_is_enough(model, checkpoint, inputs_of, collected):
    found = collected(model, [np.array([1, 2, 3])])
    inputs = inputs_of([np.array([1, 2, 3])], float64(checkpoint.tensors), checkpoint.config)
    x, embedded = inputs["wte.weight"], found.inputs["wpe.weight"]
    head = found.inputs["wte.weight"] - 2 * embedded
    np.testing.assert_allclose(head, x.T @ x / 3, rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(embedded) <= 3


def test_the_model_is_left_as_it_was(model, checkpoint, sequences, collected):
    before = model.forward(sequences[0][None])
    tensors = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    collected(model, sequences[:2])
    np.testing.assert_array_equal(model.forward(sequences[0][None]), before)
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])


# Taking up unfinished work


def test_what_was_measured_before_is_not_measured_again(model, sequences, collected, folder):
    """After a stop at any part, the rest gives the same moments."""
    with workers(1) as pool:
        first: Any = collect(model, sequences, 0, pool, folder, no_progress)
        expected = dict(islice(first, 2))
        first.close()
        assert list(expected) == ["h.1", "h.0"]
        rest = dict(collect(model, sequences, 0, pool, folder, no_progress))
    assert list(rest) == ["h.0", "embeddings"]  # it was not done with the first of these
    whole = arrays_of(collected(model, sequences))
    for part in (*expected.values(), *rest.values()):
        for name, array in arrays_of(part).items():
            np.testing.assert_array_equal(array, whole[name])
    assert not list(folder.path.glob("state-*"))


# Overflow


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("h.1.mlp.c_fc.weight", 3e38),  # activations
        ("h.0.attn.c_attn.weight", 1e25),  # their squares
        ("ln_f.weight", 3e38),  # logits
    ],
)
def test_a_model_that_overflows_is_refused(checkpoint, config, kernels, name, value, collected):
    tensors = dict(checkpoint.tensors)
    tensors[name] = np.full_like(tensors[name], value)
    model = Gpt2.from_checkpoint(config, tensors, kernels)
    with pytest.raises(CheckpointError, match="overflow"):
        collected(model, [np.arange(9)])


@given(
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 5, 255, 256, 257, 600]),
    scale=st.sampled_from([1.0, 1e-20, 1e20]),
    seed=st.integers(0, 99),
)
def test_squares_are_the_products_of_all_pairs_of_columns(rows, columns, scale, seed):
    x = np.random.default_rng(seed).standard_normal((rows, columns + 3)).astype("f4")[:, 3:]
    x *= np.float32(scale)
    found, wide = squares(x), x.astype(np.float64)
    np.testing.assert_allclose(found, wide.T @ wide, rtol=1e-5, atol=1e-4 * scale**2)
    np.testing.assert_array_equal(found, found.T)
    assert found.dtype == (np.float32 if scale == 1 else np.float64)


def test_states_wait_in_the_folder_until_their_layer_is_measured(model, sequences, pool, folder):
    layers = len(model.blocks)
    parts = collect(model, sequences, 0, pool, folder, no_progress)
    for layer in reversed(range(layers)):
        assert next(parts)[0] == f"h.{layer}"
        states = {path.stem for path in folder.path.glob("state-*")}
        assert states == {f"state-{before}" for before in range(layer + 1)}
        assert {path.stem for path in folder.path.glob("gradient-*")} == {f"gradient-{layer + 1}"}


def test_all_is_measured_again_if_a_state_is_lost(model, sequences, collected, pool, folder):
    first = arrays_of(collected(model, sequences))
    next(parts := collect(model, sequences, 0, pool, folder, no_progress))
    next(parts)  # the last layer is finished, and its gradient is kept
    folder.discard("state-0")
    again = arrays_of(collected(model, sequences, folder=folder))
    assert again.keys() == first.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
