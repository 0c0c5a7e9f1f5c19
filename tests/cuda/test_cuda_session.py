"""A whole model in the simulator, beside the CPU's session."""

import numpy as np
import pytest
from small_models import (
    as_panels,
    random_tensors,
    relative_error,
    rotated_tensors,
    small_config,
)

from rbe_cli.cuda.cuda_session import CudaSession
from rbe_cli.cuda.device_network import DeviceNetwork
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import sliding_windows
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.evaluation.forward_pass import forward
from rbe_cli.jobs.workers import workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.text.generation import generate
from rbe_cli.text.generation_options import GenerationOptions

PROMPT = np.array([3, 1, 4])


pytestmark = pytest.mark.usefixtures("small_blocks")


def tiny_model(in_panels, *, is_rotated=False, **changes):
    sizes = {"vocab_size": 7, "n_positions": 12, "n_embd": 6, "n_head": 2, "n_inner": 5}
    config = small_config(**sizes | {"n_layer": 1} | changes)
    tensors = random_tensors(config)
    if is_rotated:
        tensors = rotated_tensors(tensors, config)[0]
    if in_panels:
        return LoadedModel(config, as_panels(tensors, 7)[0])
    return LoadedModel.from_checkpoint(config, tensors)


def greedy(session, tokens):
    options = GenerationOptions(max_tokens=tokens, greedy=True, lookup=False)
    return [step.token for step in generate(session, [PROMPT], options, None, ())]


@pytest.mark.parametrize("is_rotated", [False, True])
@pytest.mark.parametrize("in_panels", [True, False])
def test_greedy_text_is_that_of_the_cpu(in_panels, is_rotated):
    model = tiny_model(in_panels, is_rotated=is_rotated)
    assert greedy(CudaSession(model, 1, "fp16"), 3) == greedy(Session(model, 1, "fp16"), 3)


def test_logits_are_those_of_the_cpu():
    model = tiny_model(True, tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True)
    ours, cpu = CudaSession(model, 2, "fp32"), Session(model, 2, "fp32", "16")
    assert relative_error(ours.prefill(1, PROMPT), cpu.prefill(1, PROMPT)) < 1e-3
    assert relative_error(ours.extend(1, PROMPT[:2]), cpu.extend(1, PROMPT[:2])) < 1e-3
    ours.truncate(1, 4)
    cpu.truncate(1, 4)
    for session in (ours, cpu):
        session.prefill(0, PROMPT[:1])
    rows, tokens = [1, 0], np.array([5, 6])
    assert relative_error(ours.decode(rows, tokens), cpu.decode(rows, tokens)) < 1e-3
    assert [ours.length(0), ours.length(1)] == [2, 5]


@pytest.mark.parametrize("is_rotated", [False, True])
def test_a_whole_pass_gives_logits_and_hidden_states(is_rotated):
    model = tiny_model(True, is_rotated=is_rotated)
    found = forward(DeviceNetwork(model), PROMPT, keep_hidden=True)
    known = forward(
        Gpt2(model.config, model.weights, load_kernels("reference")), PROMPT, keep_hidden=True
    )
    assert relative_error(found.logits, known.logits) < 1e-3
    assert found.hidden.keys() == known.hidden.keys() == {"h.0"}
    assert relative_error(found.hidden["h.0"], known.hidden["h.0"]) < 1e-3


def test_tokens_outside_the_vocabulary_are_refused():
    model = tiny_model(False)
    with pytest.raises(UsageError, match="vocabulary"):
        DeviceNetwork(model).forward(np.array([[7]]))


def test_scores_are_those_of_the_cpu():
    options = {"scale_attn_by_inverse_layer_idx": True, "n_layer": 2}
    model, reference = tiny_model(True, **options), tiny_model(False, **options)
    windows = sliding_windows([np.array([3, 1, 4, 1, 5, 2])], 4, 2)
    cpu = Gpt2(model.config, model.weights, load_kernels("reference"))
    other = Gpt2(reference.config, reference.weights, load_kernels("reference"))
    with workers(2) as pool:
        found = evaluate(DeviceNetwork(model), windows, pool, other)
        known = evaluate(cpu, windows, pool, other)
    assert found.loss.value == pytest.approx(known.loss.value, rel=1e-4)
    own, wanted = found.compared(), known.compared()
    assert own.kl_divergence.value == pytest.approx(wanted.kl_divergence.value, rel=1e-3)
    assert own.layer_errors == pytest.approx(wanted.layer_errors, rel=1e-3)
