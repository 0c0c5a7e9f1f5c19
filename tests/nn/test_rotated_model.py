"""Models whose residual stream is rotated, against the same models before."""

import numpy as np
import pytest
from small_models import (
    float64,
    folded_tensors,
    random_tensors,
    relative_error,
    rotated_tensors,
    small_config,
)

from rbe_cli.codec.stream_rotation import unrotated
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.evaluation.forward_pass import forward
from rbe_cli.jobs.workers import workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import ROTATION
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.tape import Tape

CONFIG = small_config(tie_word_embeddings=False)
TOKENS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (2, 9))
REFERENCE = load_kernels("reference")


def models(kernels, tensors=None):
    """The model with folded LayerNorms, the rotated one, and the rotation."""
    original = folded_tensors(random_tensors(CONFIG)) if tensors is None else tensors
    turned, rotation = rotated_tensors(original, CONFIG)
    return (
        Gpt2.from_checkpoint(CONFIG, original, kernels),
        Gpt2.from_checkpoint(CONFIG, turned, kernels),
        rotation,
    )


def test_logits_and_states_are_the_same(kernels):
    original, rotated, _ = models(kernels)
    expected = original.hidden(TOKENS)
    assert relative_error(unrotated(rotated.rotation, rotated.hidden(TOKENS)), expected) < 1e-4
    assert relative_error(rotated.forward(TOKENS), original.forward(TOKENS)) < 1e-4


def test_the_rotation_counts(fast):
    original, rotated, _ = models(fast)
    for model in (original, rotated):
        model.enable_stats()
        model.forward(TOKENS)
    width, tokens = CONFIG.n_embd, TOKENS.size
    more = rotated.stats.operations - original.stats.operations
    assert more == 2 * 2 * tokens * width**2
    assert rotated.memory_usage().decoded_bytes == 4 * width**2


def test_hidden_states_are_those_of_the_checkpoint(fast):
    original, rotated, _ = models(fast)
    found, expected = (forward(own, TOKENS[0], keep_hidden=True) for own in (rotated, original))
    assert found.hidden.keys() == {"h.0", "h.1", "h.2"}
    for name, own in expected.hidden.items():
        assert relative_error(found.hidden[name], own) < 1e-4


def test_gradients_are_turned_like_the_weights():
    original, rotated, rotation = models(REFERENCE, float64(folded_tensors(random_tensors(CONFIG))))
    grad = np.random.default_rng(5).standard_normal((*TOKENS.shape, CONFIG.vocab_size))
    sums, inputs = [], []
    for model in (original, rotated):
        with Tape() as tape:
            found = Gradients()
            model.record(TOKENS, tape)
            inputs.append(model.backward(tape, grad, found))
            sums.append(found.sums)
    assert relative_error(rotation.out_of(inputs[1]), inputs[0]) < 1e-5
    assert sums[0].keys() == sums[1].keys()
    for name in ("ln_f.weight", "ln_f.bias", "h.1.mlp.c_fc.bias", "h.0.attn.c_attn.bias"):
        assert relative_error(sums[1][name], sums[0][name]) < 1e-5
    for name in ("h.0.attn.c_proj.weight", "h.2.mlp.c_proj.weight", "h.1.attn.c_proj.bias"):
        assert relative_error(rotation.out_of(sums[1][name]), sums[0][name]) < 1e-5
    for name in ("wte.weight", "lm_head.weight"):  # [n_embd, rows]
        assert relative_error(rotation.out_of(sums[1][name].T), sums[0][name].T) < 1e-5


@pytest.mark.parametrize("both", [False, True])
def test_errors_of_layers_are_those_of_the_checkpoints_stream(fast, both):
    original, rotated, _ = models(fast)
    windows = [Window(own) for own in TOKENS]
    with workers(1) as pool:
        same = evaluate(rotated, windows, pool, rotated if both else original)
    assert max(same.compared().layer_errors) < 1e-5
    changed = random_tensors(CONFIG, seed=1)
    other = models(fast, folded_tensors(changed))[1 if both else 0]
    with workers(1) as pool:
        found = evaluate(rotated, windows, pool, other).compared()
        known = evaluate(
            original, windows, pool, Gpt2.from_checkpoint(CONFIG, changed, fast)
        ).compared()
    np.testing.assert_allclose(found.layer_errors, known.layer_errors, rtol=1e-3)


def test_a_rotation_of_another_shape_is_refused(fast):
    tensors = random_tensors(CONFIG) | {ROTATION: np.ones((42, 42), np.float32)}
    with pytest.raises(UsageError, match=r"rotation\.weight"):
        Gpt2.from_checkpoint(CONFIG, tensors, fast)
