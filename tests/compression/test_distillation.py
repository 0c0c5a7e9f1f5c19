from typing import Any

import numpy as np
import pytest

from rbe_cli.compression.metric import as_matrix
from rbe_cli.compression.tune import distillation
from rbe_cli.compression.tune.distillation import distil
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.jobs.workers import workers
from rbe_cli.model.tensor_names import is_matrix
from rbe_cli.nn.gpt2 import Gpt2


@pytest.fixture(scope="module")
def sequences(config):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, config.n_positions) for _ in range(40)]


@pytest.fixture(scope="module")
def compressed(checkpoint):
    """Return tensors of which some steps and biases are wrong, matrices `[inputs, outputs]`."""
    rng, found = np.random.default_rng(1), {}
    for name, tensor in checkpoint.tensors.items():
        own: Any = as_matrix(name, tensor)
        if is_matrix(name):
            own = own * np.exp(0.05 * rng.standard_normal(own.shape[1]))
        else:
            own = own + 0.02 * rng.standard_normal(own.shape)
        found[name] = own.astype(np.float32)
    return found


def applied(tensors, tuned):
    found = dict(tensors) | tuned.vectors
    for name, factors in tuned.factors.items():
        found[name] = tensors[name] * factors
    return found


def divergence(model, tensors, sequences, pool):
    student = Gpt2(model.config, tensors, model.kernels)
    found = evaluate(student, [Window(own) for own in sequences], pool, model)
    return found.comparison.kl_divergence.value


def train(model, compressed, sequences, steps, pool, folder, progress):
    names = [name for name in compressed if is_matrix(name)]
    return distil(model, compressed, names, sequences, steps, 2.0, 0, pool, folder, progress)


def test_training_brings_the_model_nearer(model, compressed, sequences, pool, folder, progress):
    """Measure on text that was not used for training."""
    tuned = train(model, compressed, sequences[:32], 40, pool, folder, progress)
    before = divergence(model, compressed, sequences[32:], pool)
    after = divergence(model, applied(compressed, tuned), sequences[32:], pool)
    assert after < 0.5 * before
    assert tuned.factors.keys() == {name for name in compressed if is_matrix(name)}
    assert tuned.vectors.keys() == {name for name in compressed if not is_matrix(name)}


def test_what_was_interrupted_goes_on(
    model, compressed, sequences, pool, new_folder, progress, monkeypatch
):
    monkeypatch.setattr(distillation, "_SAVED_EVERY", 3)
    whole = train(model, compressed, sequences, 8, pool, new_folder(), progress)
    folder, save = new_folder(), distillation.WorkFolder.save

    def stopping(self, name, arrays):
        save(self, name, arrays)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(distillation.WorkFolder, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(model, compressed, sequences, 8, pool, folder, lambda *call: None)
    steps = []
    rest = train(
        model, compressed, sequences, 8, pool, folder, lambda stage, done, *more: steps.append(done)
    )
    assert steps == [0, 4, 5, 6, 7, 8]
    for one, other in ((whole.factors, rest.factors), (whole.vectors, rest.vectors)):
        for name, own in one.items():
            np.testing.assert_array_equal(own, other[name])


def test_the_number_of_tasks_does_not_matter(model, compressed, sequences, new_folder, progress):
    found = []
    for jobs in (1, 3):
        with workers(jobs) as pool:
            found.append(train(model, compressed, sequences, 3, pool, new_folder(), progress))
    for name, own in found[0].factors.items():
        np.testing.assert_array_equal(own, found[1].factors[name])
