"""A model run by the forward program, against the layers of `rbe_cli.nn` in float32."""

import numpy as np
import pytest
from random_panels import FORMS, random_matrix
from reference_gpt2 import gpt2
from small_models import (
    as_panels,
    float64,
    random_tensors,
    relative_error,
    rotated_tensors,
    small_config,
)

from rbe_cli.engine.layer_session import LayerSession
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.row_session import CHUNK_TOKENS
from rbe_cli.engine.session import Session
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_records import KV_TYPES
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team

TOLERANCE = {"fp32": 3e-4, "fp16": 2e-3, "int8": 5e-2}  # of the largest logit


def reference_logits(tokens, decoded, config):
    """float64 `[n, vocab]`."""
    return gpt2(tokens, float64(decoded), config)


def random_tokens(config, count, seed=0):
    return np.random.default_rng(seed).integers(0, config.vocab_size, count)


def open_session(model, batch=1, **options):
    return Session(model, batch, **{"team": get_team(1)} | options)


def open_layers(model, batch=1):
    return LayerSession(Gpt2(model.config, model.weights, load_kernels("fast", 1)), batch)


def generated(model, tokens, prompt, **options):
    """Logits `[n, vocab]` of a prompt read at once and of tokens that follow one by one."""
    session = open_session(model, **options)
    steps = [session.extend(0, tokens[:prompt])] if prompt else []
    return np.concatenate([*steps, *(session.decode([0], tokens[i : i + 1])
                                     for i in range(prompt, len(tokens)))])  # fmt: skip


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("largest", [3, 7, 30, 127, None])
def test_a_whole_generation_follows_the_reference(kv_type, largest):
    config = small_config()
    tensors = random_tensors(config)
    panels, decoded = as_panels(tensors, largest) if largest else (None, tensors)
    model = LoadedModel.from_checkpoint(config, tensors)
    if panels is not None:
        model = LoadedModel(config, panels)
    tokens = random_tokens(config, config.n_positions)
    expected = reference_logits(tokens, decoded, config)
    found = generated(model, tokens, 30, kv_type=kv_type)
    assert relative_error(found, expected) < TOLERANCE[kv_type]


OPTIONS = [
    {"tie_word_embeddings": False},
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False},
    {"n_embd": 128, "n_head": 2, "n_inner": 512},
    {"n_embd": 9, "n_head": 9, "n_inner": 1},
    {"n_embd": 300, "n_head": 1, "n_layer": 1},
    *({"activation_function": name} for name in ("gelu", "quick_gelu", "silu", "relu")),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_of_the_config(options):
    config = small_config(**options)
    panels, decoded = as_panels(random_tensors(config, seed=2), 127)
    tokens = random_tokens(config, 70)
    expected = reference_logits(tokens, decoded, config)
    found = generated(LoadedModel(config, panels), tokens, 37, kv_type="fp32")
    assert relative_error(found, expected) < TOLERANCE["fp32"]


@pytest.mark.parametrize("largest", [7, 127, None])
@pytest.mark.parametrize("options", [{}, *OPTIONS[:1], *OPTIONS[3:6]], ids=str)
def test_a_rotated_stream(options, largest):
    config = small_config(**options)
    tensors = rotated_tensors(random_tensors(config, seed=2), config)[0]
    panels, decoded = as_panels(tensors, largest) if largest else (None, tensors)
    model = LoadedModel.from_checkpoint(config, tensors)
    if panels is not None:
        model = LoadedModel(config, panels)
    tokens = random_tokens(config, 70)
    expected = reference_logits(tokens, decoded, config)
    found = generated(model, tokens, 37, kv_type="fp32")
    # The head's input is rounded once more than elsewhere.
    assert relative_error(found, expected) < 2 * TOLERANCE["fp32"]


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(("n_embd", "n_head"), [(300, 1), (9, 9), (66, 2)])
def test_heads_of_odd_sizes(kv_type, n_embd, n_head):
    config = small_config(n_embd=n_embd, n_head=n_head, n_layer=1)
    tensors = random_tensors(config)
    tensors["h.0.attn.c_attn.weight"] *= min(1.0, (42 / n_embd) ** 0.5)  # scores as elsewhere
    panels, decoded = as_panels(tensors, 127)
    tokens = random_tokens(config, 70)
    expected = reference_logits(tokens, decoded, config)
    found = generated(LoadedModel(config, panels), tokens, 37, kv_type=kv_type)
    assert relative_error(found, expected) < TOLERANCE[kv_type]


@pytest.mark.parametrize("is_rotated", [False, True])
@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_tokens_threads_and_instructions_give_the_same_bits(kv_type, is_rotated):
    """However a text is divided into calls, and whatever computes it."""
    config = small_config(n_positions=3 * CHUNK_TOKENS, n_layer=2)
    tensors = random_tensors(config)
    if is_rotated:
        tensors = rotated_tensors(tensors, config)[0]
    model = LoadedModel(config, as_panels(tensors, 30)[0])
    tokens = random_tokens(config, CHUNK_TOKENS + 9)
    expected = None
    for instructions in available():
        for threads, prompt in ((1, len(tokens)), (2, len(tokens)), (2, 237), (1, 0)):
            team = get_team(threads, instructions)
            found = generated(model, tokens, prompt, kv_type=kv_type, team=team)
            expected = found if expected is None else expected
            np.testing.assert_array_equal(found, expected)


def test_prefill_returns_the_last_logits(model):
    tokens = random_tokens(model.config, 20)
    every = open_session(model).extend(0, tokens)
    np.testing.assert_array_equal(open_session(model).prefill(0, tokens), every[-1])


def test_rows_of_different_lengths(model):
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 20))
    session = open_session(model, batch=3)
    alone = [open_session(model).extend(0, row) for row in tokens]
    np.testing.assert_array_equal(session.prefill(2, tokens[0, :9]), alone[0][8])
    np.testing.assert_array_equal(session.prefill(0, tokens[1, :4]), alone[1][3])
    logits = session.decode([2, 0], np.array([tokens[0, 9], tokens[1, 4]]))
    assert logits.shape == (2, session.vocab_size)
    np.testing.assert_array_equal(logits, np.stack([alone[0][9], alone[1][4]]))
    assert [session.length(row) for row in range(3)] == [5, 0, 10]


def test_a_rows_logits_do_not_depend_on_its_batch(model):
    """Bit for bit: what a prompt is continued with must not depend on its neighbours."""
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, (5, 8))
    together, alone = open_session(model, batch=5), open_session(model)
    for row in range(5):
        together.prefill(row, tokens[row, :7])
    logits = together.decode(range(5), tokens[:, 7])
    for row in range(5):
        alone.reset(0)
        alone.prefill(0, tokens[row, :7])
        np.testing.assert_array_equal(alone.decode([0], tokens[row, 7:])[0], logits[row])


@pytest.mark.parametrize("start", [open_session, open_layers])
def test_reset_empties_a_row(model, start):
    session = start(model)
    first = session.prefill(0, np.array([1, 2, 3]))
    session.reset(0)
    assert session.length(0) == 0
    np.testing.assert_array_equal(session.prefill(0, np.array([1, 2, 3])), first)


def test_forgotten_tokens_leave_nothing_behind(model):
    tokens = random_tokens(model.config, 90)
    session = open_session(model)
    every = session.extend(0, tokens)
    session.truncate(0, 40)
    np.testing.assert_array_equal(session.extend(0, tokens[40:]), every[40:])


@pytest.mark.parametrize("start", [open_session, open_layers])
def test_context_may_be_filled_and_not_passed(model, start):
    session = start(model)
    session.prefill(0, np.ones(session.n_positions, np.int64))
    with pytest.raises(UsageError, match="context"):
        session.decode([0], np.array([1]))
    with pytest.raises(UsageError, match="no tokens"):
        session.prefill(0, np.array([], np.int64))


@pytest.mark.parametrize("start", [open_session, open_layers])
def test_a_batch_needs_a_row(model, start):
    with pytest.raises(UsageError, match="batch of 0"):
        start(model, batch=0)


def test_ids_outside_the_vocabulary_are_refused(model):
    session = open_session(model)
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(UsageError, match="outside the vocabulary"):
            session.decode([0], np.array([wrong]))
    assert session.length(0) == 0


@pytest.mark.parametrize(("activations", "tolerance"), [("16", 0.0), ("8", 0.1)])
def test_a_prompts_activations_may_be_rounded_more(activations, tolerance):
    config = small_config()
    model = LoadedModel(config, as_panels(random_tensors(config), 127)[0])
    tokens = random_tokens(config, 50)
    fine = open_session(model).extend(0, tokens)
    session = open_session(model, activation_bits=activations)
    found = session.prefill(0, tokens[:40])
    assert relative_error(found, fine[39]) <= tolerance
    assert (relative_error(found, fine[39]) > 1e-3) == (activations == "8")
    # Tokens that follow are rounded to 16 bits again.
    session.reset(0)
    np.testing.assert_array_equal(session.extend(0, tokens), fine)


@pytest.mark.parametrize("form", FORMS)
def test_instruction_sets_round_a_prompt_to_the_same_bits(form):
    """With int8 activations, for all forms of matrices and all sizes of blocks of tokens."""
    config = small_config(n_layer=1, n_embd=300, n_inner=500)
    tensors, rng = random_tensors(config), np.random.default_rng(0)
    for name, tensor in tensors.items():
        if is_matrix(name):
            shape = tensor.shape[::-1] if is_embedding(name) else tensor.shape
            tensors[name] = random_matrix(rng, *shape, form, 1e-3)
    model, tokens = LoadedModel(config, tensors), random_tokens(config, 29)
    for count in (1, 2, 5, 29):
        found = [
            open_session(model, activation_bits="8", team=get_team(1, own)).prefill(
                0, tokens[:count]
            )
            for own in available()
        ]
        assert np.isfinite(found[0]).all()
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


def test_weights_of_8_bits_keep_fine_activations_of_themselves(model):
    tokens = random_tokens(model.config, 40)
    fine = open_session(model, activation_bits="16").prefill(0, tokens)
    np.testing.assert_array_equal(open_session(model).prefill(0, tokens), fine)
