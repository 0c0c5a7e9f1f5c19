"""Train the parameters of a compressed model that are not integers, to predict like the original.

The loss is the KL divergence from the original's distribution at each token (knowledge
distillation, Hinton et al. 2015). Adam trains a factor of the quantisation step of each column,
the biases and the LayerNorm parameters. The integers are not changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np

from rbe_cli.algebra.elementary import exp2, exp_in_place
from rbe_cli.evaluation.batching import Tokens, batches, logit_chunks
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import is_matrix
from rbe_cli.nn.adam import Adam
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.loss import distillation, log_softmax
from rbe_cli.nn.tape import Tape
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32, Floating

_STEP_TOKENS = 2048  # per training step
_PART_TOKENS = 512  # per task
_BETAS = 0.9, 0.99
_FACTOR_RATE, _VECTOR_RATE = 1e-3, 3e-4  # at 2 bits per weight; halved for each further bit
_WARM_UP = 5  # training steps
_LAST = 0.02  # the learning rates at the end, relative to the start
_SAVED_EVERY = 20  # training steps
_FACTOR = ".log_factors"  # suffix of the logarithms of the factors of a matrix's columns
_ADAM, _VALUE = "adam ", "value "  # prefixes of the names in a work folder


@dataclass(frozen=True)
class Tuned:
    """The trained parameters.

    Attributes:
        factors: by matrix, the factors of its columns' quantisation steps, float32 `[N]`.
        vectors: biases and LayerNorm parameters by name, float32 `[n]`.
    """

    factors: dict[str, Float32]
    vectors: dict[str, Float32]


def distil(
    model: Gpt2,
    tensors: Mapping[str, Float32],
    factored: Sequence[str],
    sequences: Sequence[Tokens],
    training_steps: int,
    bits: float,
    seed: int,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> Tuned:
    """Train a compressed model for a number of training steps.

    Args:
        model: the original.
        tensors: the decoded tensors of the compressed model, matrices `[inputs, outputs]`.
        factored: the names of the matrices whose columns get factors.
        sequences: the calibration text. It is used in a random order, several times if needed.
        training_steps: the number of training steps, of about 2048 tokens each.
        bits: about the bits per weight. The learning rates are lower for finer models.
        seed: the seed of the order.
        workers: compute the parts of a training step in parallel.
        folder: keeps the state of the training.
        progress: called after each training step, with its loss.
    """
    values = {name: own for name, own in tensors.items() if not is_matrix(name)}
    values |= {f"{n}{_FACTOR}": np.zeros(tensors[n].shape[1], np.float32) for n in factored}
    adam = Adam(_BETAS)
    if saved := folder.load("tuning"):
        adam = Adam.from_arrays(_part_of(saved, _ADAM), _BETAS)
        values = _part_of(saved, _VALUE)
    rates = {name: _rate(name, bits) for name in values}
    progress("tuning", 0, training_steps)
    groups = islice(_groups(sequences, seed), training_steps)
    for done, group in enumerate(groups):
        if done < adam.training_step:
            continue
        weights = _applied(tensors, values)
        student = Gpt2(model.config, weights, model.kernels)
        loss, sums = _sums(model, student, group, workers)
        gradients = {name: _gradient(name, sums, weights) for name in values}
        speed = min(1.0, (done + 1) / _WARM_UP) * max(_LAST, 1 - done / training_steps)
        values = adam.step(values, gradients, {name: speed * rate for name, rate in rates.items()})
        if (done + 1) % _SAVED_EVERY == 0:
            folder.save("tuning", _under(_VALUE, values) | _under(_ADAM, adam.to_arrays()))
        progress("tuning", done + 1, training_steps, f"KL divergence {loss:.5f}")
    return Tuned(
        {name: exp_in_place(values[f"{name}{_FACTOR}"].copy()) for name in factored},
        {name: own for name, own in values.items() if not name.endswith(_FACTOR)},
    )


def _rate(name: str, bits: float) -> float:
    rate = _FACTOR_RATE if name.endswith(_FACTOR) else _VECTOR_RATE
    return rate * float(exp2(2 - bits))


def _applied(tensors: Mapping[str, Float32], values: Mapping[str, Float32]) -> dict[str, Float32]:
    """Return the tensors, with the trained parameters applied."""
    weights = {name: values.get(name, own) for name, own in tensors.items()}
    for name, own in values.items():
        if name.endswith(_FACTOR):
            matrix = name.removesuffix(_FACTOR)
            weights[matrix] = tensors[matrix] * exp_in_place(own.copy())
    return weights


def _gradient(name: str, sums: Mapping[str, Floating], weights: Mapping[str, Float32]) -> Float32:
    """Return the gradient of a vector, or of the logarithms of a matrix's factors."""
    if not name.endswith(_FACTOR):
        return sums[name]
    matrix = name.removesuffix(_FACTOR)
    return np.einsum("kn,kn->n", sums[matrix], weights[matrix])


def _groups(sequences: Sequence[Tokens], seed: int) -> Iterator[list[Tokens]]:
    """Yield the sequences of each training step, endlessly. Each round has another order."""
    rng, group = np.random.default_rng(seed), []
    while True:
        for index in rng.permutation(len(sequences)):
            group.append(sequences[index])
            if sum(sequence.size for sequence in group) >= _STEP_TOKENS:
                yield group
                group = []


def _sums(
    model: Gpt2, student: Gpt2, group: Sequence[Tokens], workers: Workers
) -> tuple[float, dict[str, Floating]]:
    """Return the mean loss over a training step's tokens, and its gradients by name."""
    tokens = sum(sequence.size for sequence in group)
    total, gradients = 0.0, Gradients()
    parts = batches(sorted(group, key=len), _PART_TOKENS)
    for loss, part in workers.map(_batch, repeat(model), repeat(student), parts):
        total += loss
        gradients.merge(part)
    scale = np.float32(1 / tokens)
    return total / tokens, {name: scale * own for name, own in gradients.sums.items()}


def _batch(model: Gpt2, student: Gpt2, tokens: Tokens) -> tuple[float, Gradients]:
    """Return the loss and the gradients, summed over the tokens `[batch, n]`."""
    gradients, total = Gradients(), 0.0
    targets = model.hidden(tokens)
    with Tape(checkpoint=False) as tape:
        hidden = student.record(tokens, tape)
        states, expected = (own.reshape(-1, own.shape[-1]) for own in (hidden, targets))
        grad = np.empty_like(states)
        for chunk in logit_chunks(len(states), student.config.vocab_size):
            reference = log_softmax(model.logits(expected[chunk]))
            loss, own = distillation(student.logits(states[chunk]), reference)
            total += loss
            grad[chunk] = student.logits_backward(states[chunk], own, gradients)
        student.hidden_backward(tape, grad.reshape(hidden.shape), gradients)
    return total, gradients


def _under(prefix: str, arrays: Mapping[str, Floating]) -> Arrays:
    return {f"{prefix}{name}": own for name, own in arrays.items()}


def _part_of(saved: Arrays, prefix: str) -> dict[str, Float32]:
    """Return the arrays that `_under` saved with this prefix."""
    return {n.removeprefix(prefix): own for n, own in saved.items() if n.startswith(prefix)}
