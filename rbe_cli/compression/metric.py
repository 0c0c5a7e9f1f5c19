"""What an error in each tensor costs the model, in the codec's terms (ectcq/error_feedback.py).

All costs are in nats a token, so that one factor makes the steps of all tensors: the model
loses least at a given size where every weight's last bit is worth the same. With the
objective `outputs` they are instead each layer's own squared error over its output's power.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.error_cost import ErrorCost, InputFactor, OutputFactor
from rbe_cli.compression.encoding import deviation
from rbe_cli.compression.moments import collect
from rbe_cli.compression.settings import Objective
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.evaluation.batching import Tokens
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress

Float32 = NDArray[np.float32]
# What is added to the moments' diagonals, of their mean, at a bit a weight. Coarse steps move
# the model out of the reach of second-order terms, and it then matters that no direction is
# taken for free (docs/design-notes.md). It halves with each bit up to `_FINEST_BITS`: with less,
# the errors that are fed back outgrow the weights, and rounding errors of the moments count.
_INPUT_DAMPING = 0.2
_OUTPUT_DAMPING = 0.6
_FINEST_BITS = 8.0
_MOST_DAMPING = 1e3
_TOKEN_DAMPING = 0.02  # of the tokens' importance: calibration saw few of the rare ones


def as_matrix(name: str, tensor: Float32) -> Float32:
    """A checkpoint's matrix as `[K inputs, N outputs]`."""
    return tensor.T if is_embedding(name) else tensor


@dataclass(frozen=True)
class Metric:
    """What errors cost, tensor by tensor.

    Attributes:
        unit_steps: by matrix that is coded, see `ErrorCost`; that of a matrix on which nothing
            depends has the others' mean rate.
        even_losses: by matrix that is coded, nats a token that independent errors of variance 1
            in all its weights cost, to second order.
        squares: by vector, E[g^2] of its gradient, float64 `[n]`; none if no matrix is coded.
        folder: where the costs are.
    """

    unit_steps: dict[str, float]
    even_losses: dict[str, float]
    squares: dict[str, NDArray[np.float64]]
    folder: WorkFolder

    def cost(self, name: str) -> ErrorCost:
        """Of a matrix that is coded."""
        return ErrorCost.from_arrays(self.folder.require(f"cost-{name}"))

    def layer_inputs(self, name: str, head: str) -> InputFactor | None:
        """Of the layer that a coded matrix belongs to; None if it only embeds, or is a vector.

        Args:
            name: of any tensor.
            head: of the head's.
        """
        if name == head and self.squares:  # its cost is also that of an embedding
            moment = self.folder.require("head")[f"input {head} 0"]
            return InputFactor.from_moment(moment, 0.01)
        coded = name in self.unit_steps and not is_embedding(name)
        return self.cost(name).inputs if coded else None


def measure(
    model: Gpt2,
    tensors: Mapping[str, Float32],
    sequences: Sequence[Tokens],
    plans: Sequence[TensorPlan],
    objective: Objective,
    bits: float,
    seed: int,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> Metric:
    """Measure the model on calibration text, and factor what that gives.

    Args:
        model: of the checkpoint.
        tensors: of the checkpoint.
        sequences: calibration text.
        plans: of all tensors; errors count in those that are lossy matrices.
        objective: see the module.
        bits: a weight, about what matrices without a rate of their own will have.
        seed: of the tokens that are sampled from the predictions.
        workers: measure and factor side by side.
        folder: where the costs are kept.
        progress: told after each layer.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    lossy = {plan.name: plan for plan in plans if plan.is_lossy_matrix}
    if not lossy:  # errors are not to be weighed
        return Metric({}, {}, {}, folder)
    names = [f"h.{layer}" for layer in range(len(model.blocks))] + ["embeddings"]
    tokens = sum(map(len, sequences))
    if any(folder.load(f"squares-{name}") is None for name in names):
        for name, part in collect(model, sequences, seed, workers, folder, progress):
            coded = [name for name in part.inputs if name in lossy]
            weights = (as_matrix(name, tensors[name]) for name in coded)
            inputs, outputs = (part.inputs[n] for n in coded), (part.outputs[n] for n in coded)
            rates = (lossy[name].options.bits or bits for name in coded)
            costs = workers.map(
                make_cost, weights, inputs, outputs, repeat(objective), rates,
                repeat(tokens),
            )  # fmt: skip
            units: Arrays = {}
            for matrix, cost in zip(coded, costs, strict=True):
                folder.save(f"cost-{matrix}", cost.to_arrays())
                even = _even_loss(part.inputs[matrix], part.outputs[matrix])
                units[matrix] = np.array([cost.unit_step if even else np.nan, even])
            folder.save(f"units-{name}", units)
            folder.save(f"squares-{name}", part.squares)
    measured: Arrays = {}
    squares: dict[str, NDArray[np.float64]] = {}
    for name in names:
        measured |= folder.require(f"units-{name}")
        squares |= folder.require(f"squares-{name}")
    unit_steps = {name: float(step) for name, (step, _) in measured.items()}
    even_losses = {name: float(loss) for name, (_, loss) in measured.items()}
    return Metric(_completed(unit_steps, tensors), even_losses, squares, folder)


def _even_loss(inputs: NDArray[np.floating], outputs: Sequence[NDArray[np.floating]]) -> float:
    """tr(H) tr(G) / 2, see `Metric.even_losses`."""
    diagonals = [np.diag(part) if part.ndim == 2 else part for part in outputs]
    importance = sum(float(np.sum(part, dtype=np.float64)) for part in diagonals)
    return 0.5 * float(np.trace(inputs, dtype=np.float64)) * importance


def _completed(unit_steps: Mapping[str, float], tensors: Mapping[str, Float32]) -> dict[str, float]:
    """Unit steps where those that are not known (NaN) give the matrix the rate of all others.

    Nothing says what errors cost in a matrix on which no prediction depended, such as one
    before a matrix of zeros: other text may need it.
    """
    known = [name for name, step in unit_steps.items() if not np.isnan(step)]
    sizes = [tensors[name].size for name in known]
    octaves = [np.log2(deviation(tensors[name]) / unit_steps[name]) for name in known]
    mean = float(np.average(octaves, weights=sizes)) if known else 0.0
    return {
        name: deviation(tensors[name]) / 2.0**mean if np.isnan(step) else step
        for name, step in unit_steps.items()
    }


def input_factor(moment: NDArray[np.floating], bits: float, tokens: int) -> InputFactor:
    """The factor of the moment `[K, K]` of a matrix's inputs, seen over so many tokens.

    Args:
        moment: E[x x^T].
        bits: a weight, about what the matrix will have.
        tokens: that the mean was taken over.
    """
    return InputFactor.from_moment(moment, _damping(_INPUT_DAMPING, moment, bits, tokens))


def make_cost(
    weights: Float32,
    inputs: NDArray[np.floating],
    outputs: Sequence[NDArray[np.floating]],
    objective: Objective,
    bits: float,
    tokens: int,
) -> ErrorCost:
    """The cost of errors in a matrix.

    Args:
        weights: float32 `[K, N]`.
        inputs: the moment of its inputs, `[K, K]`.
        outputs: for each column block, the moment of the outputs' gradient `[B, B]`, or the
            outputs' importance `[B]`.
        objective: see the module.
        bits: a weight, about what the matrix will have.
        tokens: that the moments were measured on.
    """
    factor = input_factor(inputs, bits, tokens)
    if objective == "outputs":
        outputs = [np.ones(len(part)) if part.ndim == 2 else part for part in outputs]
        importance = np.concatenate(outputs)
        power = float(np.einsum("kn,kn,n->", weights, inputs @ weights, importance)) or 1.0
        outputs = [part / power for part in outputs]
    return ErrorCost(factor, tuple(_output_factors(outputs, bits, tokens)))


def _output_factors(
    outputs: Sequence[NDArray[np.floating]], bits: float, tokens: int
) -> Iterator[OutputFactor]:
    diagonals = [np.diag(part) if part.ndim == 2 else part for part in outputs]
    mean = float(np.mean(np.concatenate(diagonals), dtype=np.float64)) or 1.0
    for part, diagonal in zip(outputs, diagonals, strict=True):
        if part.ndim == 1:
            damped = part.astype(np.float64) + _TOKEN_DAMPING * mean
            yield OutputFactor.from_importance(damped)
        elif diagonal.any():
            damping = _damping(_OUTPUT_DAMPING, part, bits, tokens)
            yield OutputFactor.from_moment(part, damping)
        else:  # columns that nothing depends on, beside others
            yield OutputFactor.from_importance(np.full(len(part), mean))


def _damping(at_one_bit: float, moment: NDArray[np.floating], bits: float, tokens: int) -> float:
    """What is to be added to a moment's diagonal, of its mean.

    It is what the rate needs, or what so few tokens need if that is more: of a moment of few
    tokens, the smallest eigenvalues are far too small, and errors would go where other text
    does not forgive them. That much is the oracle-approximating shrinkage (Chen et al. 2010).
    """
    size = len(moment)
    relative = moment / (np.abs(moment).max() or 1.0)  # its squares are within float32
    squares, trace = float(np.linalg.norm(relative)) ** 2, float(np.trace(relative))
    noise, spread = (1 - 2 / size) * squares + trace**2, squares - trace**2 / size
    share = min(noise / ((tokens + 1 - 2 / size) * spread), 1.0) if spread > 0 else 1.0
    shrinkage = share / max(1 - share, 1 / _MOST_DAMPING)
    return max(at_one_bit * 2.0 ** -min(bits, _FINEST_BITS), shrinkage)
