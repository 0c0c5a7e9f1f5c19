"""Put quantised matrices into the model and score it on the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from benchmarks.peers.quantised import Float32, QuantisedMatrix
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.evaluation.batching import Tokens, Window
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import is_embedding, parameter_count, tensor_shapes
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.weights.weight_forms import dense

OTHER_BITS = 16  # of a weight outside the quantised matrices


@dataclass(frozen=True)
class SchemeSubject:
    """Hold what all schemes are measured on.

    Attributes:
        checkpoint: the original.
        reference: its model, float32.
        names: the matrices that are quantised.
        windows: of the text.
        moments: E[x x^T] of each linear layer's inputs on the text, by the weight's name.
    """

    checkpoint: Checkpoint
    reference: Gpt2
    names: list[str]
    windows: list[Window]
    moments: Mapping[str, Float32]

    def matrix(self, name: str) -> Float32:
        """Return a matrix as a right factor, `[K inputs, N outputs]`."""
        tensor = self.checkpoint.tensors[name]
        return np.ascontiguousarray(tensor.T) if is_embedding(name) else tensor

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, a tied head counted once."""
        return parameter_count(self.checkpoint.config)

    @property
    def quantised_parameters(self) -> int:
        shapes = tensor_shapes(self.checkpoint.config)
        return sum(prod(shapes[name]) for name in self.names)


@dataclass(frozen=True)
class Candidate:
    """Hold a compressed model and its size.

    Attributes:
        model: what decodes.
        matrix_bits: bits a weight of the quantised matrices, scales and zeros included.
        model_bits: bits a weight of the whole model.
    """

    model: Gpt2
    matrix_bits: float
    model_bits: float


@dataclass(frozen=True)
class Point:
    """Hold the scores of one scheme at one rate.

    Attributes:
        scheme: the family, a line of the plot.
        rate: within the family: `3 bits`, `Q3_K`.
        matrix_bits, model_bits: as in `Candidate`.
        output_error: mean over the layers' matrices, the head's not among them, of
            |X (W - W')| / |X W|, X the float32 model's inputs on the text. None for a model
            whose residual stream is rotated.
        kl_divergence: KL(float32 || compressed), nats a token.
        perplexity: of the compressed model.
    """

    scheme: str
    rate: str
    matrix_bits: float
    model_bits: float
    output_error: float | None
    kl_divergence: float
    perplexity: float


def assemble(subject: SchemeSubject, matrices: Mapping[str, QuantisedMatrix]) -> Candidate:
    """Return the model with these matrices and all else as float16."""
    tensors = {
        name: tensor.astype(np.float16).astype(np.float32)
        for name, tensor in subject.checkpoint.tensors.items()
        if name not in matrices
    }
    for name, (weights, _) in matrices.items():
        tensors[name] = weights.T if is_embedding(name) else weights
    model = Gpt2.from_checkpoint(subject.checkpoint.config, tensors, subject.reference.kernels)
    bits = sum(matrix.bits for matrix in matrices.values())
    count, parameters = subject.quantised_parameters, subject.parameters
    return Candidate(model, bits / count, (bits + OTHER_BITS * (parameters - count)) / parameters)


def score(
    subject: SchemeSubject, candidate: Candidate, scheme: str, rate: str, workers: Workers
) -> Point:
    """Measure how far the candidate is from the original on the text."""
    found = evaluate(candidate.model, subject.windows, workers, subject.reference)
    assert found.comparison is not None
    return Point(
        scheme,
        rate,
        candidate.matrix_bits,
        candidate.model_bits,
        _output_error(subject, candidate.model),
        found.comparison.kl_divergence.value,
        found.loss.exp().value,
    )


def _output_error(subject: SchemeSubject, model: Gpt2) -> float | None:
    if model.rotation is not None:
        return None
    errors = []
    for linear in model.linears():
        if is_embedding(linear.name):
            continue
        original, moment = subject.matrix(linear.name), subject.moments[linear.name]
        change = original - dense(linear.weight)
        power = float(np.vdot(moment @ change, change))  # E |x (W - W')|^2
        full = float(np.vdot(moment @ original, original))
        errors.append(np.sqrt(max(power, 0.0) / max(full, 1e-30)))
    return float(np.mean(errors))


def input_moments(model: Gpt2, sequences: Sequence[Tokens]) -> dict[str, Float32]:
    """Return E[x x^T] `[K, K]` of each linear layer's inputs, by its weight's canonical name.

    An embedding that is not the head sees one-hot inputs, which say nothing of its columns: it
    has the identity.
    """
    sums: dict[str, Float32] = {}

    def observe(name: str, values: Float32) -> None:
        if name.endswith(".weight"):
            product = values.T @ values
            sums[name] = sums[name] + product if name in sums else product

    for sequence in sequences:
        model.forward(sequence[None], observe=observe)
    total = np.float32(sum(len(sequence) for sequence in sequences))
    moments = {name: product / total for name, product in sums.items()}
    return {"wte.weight": np.eye(model.config.n_embd, dtype=np.float32)} | moments
