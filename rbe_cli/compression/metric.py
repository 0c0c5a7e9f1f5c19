"""Measure what an error in each tensor costs the model, as the codec uses it (error_cost.py).

All costs are in nats per token, so that one factor gives the quantisation steps of all tensors: at
a given size the loss is smallest if the last bit of every weight is worth the same. With the
objective `outputs`, the cost is instead each layer's squared output error over its output's power.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import exp2, log2
from rbe_cli.choices import Objective
from rbe_cli.codec.column_blocks import SEGMENT, column_blocks
from rbe_cli.codec.error_cost import ErrorCost, InputFactor, OutputFactor
from rbe_cli.codec.scales import column_levels
from rbe_cli.compression.encoding import deviation, mean_square
from rbe_cli.compression.moments import collect
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.evaluation.batching import Tokens
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import sum_of_squares
from rbe_cli.runtime.heap import trim_heap
from rbe_cli.runtime.thread_team import Team

Float32 = NDArray[np.float32]
# What is added to the diagonal of a moment, relative to its mean, at 1 bit per weight. Coarse steps
# move the model so far that second-order terms no longer describe the loss, and then errors in no
# direction may be free (docs/design-notes.md). The damping halves with each bit up to
# `_FINEST_BITS`. With less damping, the errors that are fed back become larger than the weights,
# and the rounding errors of the moments matter.
_INPUT_DAMPING = 0.2
_OUTPUT_DAMPING = 0.6
_FINEST_BITS = 8.0
_MOST_DAMPING = 1e3
_TOKEN_DAMPING = (
    0.02  # relative to the mean importance of tokens: calibration text has few of the rare tokens
)


def as_matrix(name: str, tensor: Float32) -> Float32:
    """Return a matrix of a checkpoint as `[K inputs, N outputs]`."""
    return tensor.T if is_embedding(name) else tensor


@dataclass(frozen=True)
class Metric:
    """The cost of errors in each tensor.

    Attributes:
        unit_steps: the unit step (`ErrorCost`) of each lossy matrix. For a matrix that no
            prediction depends on, it is the step that gives the mean rate of the others.
        powers: the mean square of the weights of each lossy matrix.
        even_losses: the cost of independent errors of variance 1 in all weights of each lossy
            matrix, to second order, in nats per token.
        squares: E[g^2] of the gradient of each vector, float64 `[n]`. It is empty if no matrix
            is lossy.
        folder: holds the costs.
    """

    unit_steps: dict[str, float]
    powers: dict[str, float]
    even_losses: dict[str, float]
    squares: dict[str, NDArray[np.float64]]
    folder: WorkFolder

    def cost(self, name: str) -> ErrorCost:
        """Load the cost of errors in a lossy matrix."""
        return ErrorCost.from_arrays(self.folder.require(f"cost-{name}"))

    def layer_inputs(self, name: str, head: str) -> InputFactor | None:
        """Return the moment of the inputs of a lossy matrix's layer.

        Args:
            name: the name of any tensor.
            head: the name of the head's matrix.

        Returns:
            The factor of the moment, or None for an embedding, a vector and an exact matrix.
        """
        if name == head and self.squares:  # its cost includes that of the embedding
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
    """Measure the model on calibration text, and factor the moments into costs of errors.

    Args:
        model: the original model.
        tensors: the tensors of the checkpoint, float32. Those of a layer are read at a time.
        sequences: the calibration text.
        plans: the plans of all tensors. Only the lossy matrices are measured.
        objective: see the docstring of this module.
        bits: about the bits per weight of the matrices whose rate is free.
        seed: the seed of the tokens that are sampled from the predictions.
        workers: measure and factor in parallel.
        folder: keeps the costs.
        progress: called after each layer.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    lossy = {plan.name: plan for plan in plans if plan.is_lossy_matrix}
    if not lossy:  # there are no errors
        return Metric({}, {}, {}, {}, folder)
    names = [f"h.{layer}" for layer in range(len(model.blocks))] + ["embeddings"]
    tokens = sum(map(len, sequences))
    if any(folder.load(f"squares-{name}") is None for name in names):
        for name, part in collect(model, sequences, seed, workers, folder, progress):
            coded = [name for name in part.inputs if name in lossy]
            weights = (as_matrix(name, tensors[name]) for name in coded)
            inputs, outputs = (part.inputs[n] for n in coded), (part.outputs[n] for n in coded)
            rates = (lossy[name].options.bits or bits for name in coded)
            costs = workers.map(
                make_cost, weights, inputs, outputs, repeat(objective), rates, repeat(tokens),
                (_columns_together(lossy[name]) for name in coded),
            )  # fmt: skip
            units: Arrays = {}
            for matrix, cost in zip(coded, costs, strict=True):
                folder.save(f"cost-{matrix}", cost.to_arrays())
                even = _even_loss(part.inputs[matrix], part.outputs[matrix])
                step = cost.unit_step if even else np.nan
                units[matrix] = np.array(
                    [step, mean_square(as_matrix(matrix, tensors[matrix])), even]
                )
            folder.save(f"units-{name}", units)
            folder.save(f"squares-{name}", part.squares)
        model.kernels.buffers.clear()
        trim_heap()
    measured: Arrays = {}
    squares: dict[str, NDArray[np.float64]] = {}
    for name in names:
        measured |= folder.require(f"units-{name}")
        squares |= folder.require(f"squares-{name}")
    unit_steps, powers, even_losses = (
        {name: float(measured[name][number]) for name in measured if name in lossy}
        for number in range(3)
    )
    sizes = {name: lossy[name].size for name in unit_steps}
    unit_steps = _completed(unit_steps, powers, sizes)
    return Metric(unit_steps, powers, even_losses, squares, folder)


def _columns_together(plan: TensorPlan) -> int:
    """Return how many columns the codec of a matrix decides at once."""
    return 1 if plan.codec.decides_columns_alone else SEGMENT


def _even_loss(inputs: NDArray[np.floating], outputs: Sequence[NDArray[np.floating]]) -> float:
    """Return tr(H) tr(G) / 2 (see `Metric.even_losses`)."""
    diagonals = [np.diag(part) if part.ndim == 2 else part for part in outputs]
    importance = sum(float(np.sum(part, dtype=np.float64)) for part in diagonals)
    return 0.5 * float(np.trace(inputs, dtype=np.float64)) * importance


def _completed(
    unit_steps: Mapping[str, float], powers: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, float]:
    """Return the unit steps, with unknown ones (NaN) set to give the mean rate of the others.

    The cost of errors is unknown in a matrix that no prediction depended on, such as one before
    a matrix of zeros. Other text may depend on it.
    """
    known = [name for name, step in unit_steps.items() if not np.isnan(step)]
    octaves = [log2(deviation(powers[name]) / unit_steps[name]) for name in known]
    mean = float(np.average(octaves, weights=[sizes[n] for n in known])) if known else 0.0
    return {
        name: deviation(powers[name]) / float(exp2(mean)) if np.isnan(step) else step
        for name, step in unit_steps.items()
    }


def input_factor(
    moment: NDArray[np.floating], bits: float, tokens: int, team: Team | None = None
) -> InputFactor:
    """Factor the moment of a matrix's inputs.

    Args:
        moment: E[x x^T], `[K, K]`.
        bits: about the bits per weight that the matrix will have.
        tokens: the number of tokens of the mean.
        team: the threads that multiply; None for the calling thread.
    """
    damping = _damping(_INPUT_DAMPING, moment, bits, tokens)
    return InputFactor.from_moment(moment, damping, team)


def make_cost(
    weights: Float32,
    inputs: NDArray[np.floating],
    outputs: Sequence[NDArray[np.floating]],
    objective: Objective,
    bits: float,
    tokens: int,
    together: int = SEGMENT,
) -> ErrorCost:
    """Make the cost of errors in a matrix from its moments.

    Args:
        weights: float32 `[K, N]`.
        inputs: the moment of its inputs, `[K, K]`.
        outputs: for each column block, the moment of the gradient of the outputs `[B, B]`, or
            the importance of the outputs `[B]`.
        objective: see the docstring of this module.
        bits: about the bits per weight that the matrix will have.
        tokens: the number of tokens that the moments were measured on.
        together: how many columns the encoder decides at once.
    """
    factor = input_factor(inputs, bits, tokens)
    if objective == "outputs":
        outputs = [np.ones(len(part)) if part.ndim == 2 else part for part in outputs]
        importance = np.concatenate(outputs)
        products = product(inputs.astype(np.float64), weights.astype(np.float64))
        power = float(np.einsum("kn,kn,n->", weights, products, importance)) or 1.0
        outputs = [part / power for part in outputs]
    return ErrorCost(factor, tuple(_output_factors(weights, outputs, bits, tokens, together)))


def _output_factors(
    weights: Float32,
    outputs: Sequence[NDArray[np.floating]],
    bits: float,
    tokens: int,
    together: int,
) -> Iterator[OutputFactor]:
    blocks = column_blocks(weights.shape[1])
    diagonals = [np.diag(part) if part.ndim == 2 else part for part in outputs]
    mean = float(np.mean(np.concatenate(diagonals), dtype=np.float64)) or 1.0
    for columns, part, diagonal in zip(blocks, outputs, diagonals, strict=True):
        if part.ndim == 1:
            damped = part.astype(np.float64) + _TOKEN_DAMPING * mean
            yield OutputFactor.from_importance(damped)
        elif diagonal.any():
            damping = _damping(_OUTPUT_DAMPING, part, bits, tokens)
            levels = column_levels(weights[:, columns])
            yield OutputFactor.from_moment(part, damping, levels, together)
        else:  # no prediction depends on these columns, but on others
            yield OutputFactor.from_importance(np.full(len(part), mean))


def _damping(at_one_bit: float, moment: NDArray[np.floating], bits: float, tokens: int) -> float:
    """Return what to add to the diagonal of a moment, relative to its mean.

    It is the larger of two: what the rate needs, and what the number of tokens needs. With few
    tokens the smallest eigenvalues are far too small, and errors would be moved to directions
    that matter on other text. The second number is the oracle-approximating shrinkage (Chen et
    al. 2010).
    """
    size = len(moment)
    relative = moment / (np.abs(moment).max() or 1.0)  # its squares are within float32
    squares, trace = sum_of_squares(relative), float(np.trace(relative))
    noise, spread = (1 - 2 / size) * squares + trace**2, squares - trace**2 / size
    share = min(noise / ((tokens + 1 - 2 / size) * spread), 1.0) if spread > 0 else 1.0
    shrinkage = share / max(1 - share, 1 / _MOST_DAMPING)
    return max(at_one_bit * float(exp2(-min(bits, _FINEST_BITS))), shrinkage)
