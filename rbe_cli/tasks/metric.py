"""What an error in each tensor costs the model, in the codec's terms (codec/feedback.py).

All costs are in nats a token, so that one factor makes the steps of all tensors: the model
loses least at a given size where every weight's last bit is worth the same. With the
objective `outputs` they are instead each layer's own squared error over its output's power.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.names import is_embedding, is_matrix
from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.tasks.calibration import Tokens
from rbe_cli.tasks.encoding import Cost
from rbe_cli.tasks.moments import collect
from rbe_cli.tasks.settings import Objective, Settings
from rbe_cli.tasks.work_folder import WorkFolder
from rbe_cli.tasks.workers import Workers

Float32 = NDArray[np.float32]
# What is added to the moments' diagonals, of their mean, at a bit a weight. Coarse steps move
# the model out of the reach of second-order terms, and it then matters that no direction is
# taken for free (docs/MEASUREMENTS.md).
INPUT_DAMPING = 0.2
_OUTPUT_DAMPING = 0.6
_TOKEN_DAMPING = 0.02  # of the tokens' importance: calibration saw few of the rare ones


def is_coded(name: str, settings: Settings) -> bool:
    """Whether a tensor is a matrix that is not left as it is."""
    return is_matrix(name) and settings.codec(name) not in ("float16", "float32")


def as_matrix(name: str, tensor: Float32) -> Float32:
    """A checkpoint's matrix as `[K inputs, N outputs]`."""
    return tensor.T if is_embedding(name) else tensor


@dataclass(frozen=True)
class Metric:
    """What errors cost, tensor by tensor.

    Attributes:
        unit_steps: by matrix that is coded, see `Cost`.
        squares: by vector, E[g^2] of its gradient, float64 `[n]`.
        folder: where the costs are.
    """

    unit_steps: dict[str, float]
    squares: dict[str, NDArray[np.float64]]
    folder: WorkFolder

    def cost(self, name: str) -> Cost:
        """Of a matrix that is coded."""
        return Cost.from_arrays(self.folder.require(f"cost-{name}"))

    def layer_inputs(self, name: str, head: str) -> InputFactor | None:
        """Of the layer that a coded matrix belongs to; None if it only embeds, or is a vector.

        Args:
            name: of any tensor.
            head: of the head's.
        """
        if name == head:  # its cost is also that of an embedding
            moment = self.folder.require("head")[f"input {head} 0"]
            return InputFactor.from_moment(moment, 0.01)
        coded = name in self.unit_steps and not is_embedding(name)
        return self.cost(name).inputs if coded else None


def measure(
    model: Gpt2,
    tensors: Mapping[str, Float32],
    sequences: Sequence[Tokens],
    settings: Settings,
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
        settings: which matrices are coded, and with which objective.
        bits: a weight, about what matrices without a rate of their own will have.
        seed: of the tokens that are sampled from the predictions.
        workers: measure and factor side by side.
        folder: where the costs are kept.
        progress: told after each layer.

    Raises:
        CheckpointError: the weights are so large that activations or their squares overflow.
    """
    names = [f"h.{layer}" for layer in range(len(model.blocks))] + ["embeddings"]
    if any(folder.load(f"squares-{name}") is None for name in names):
        for name, part in collect(model, sequences, seed, workers, folder, progress):
            coded = [name for name in part.inputs if is_coded(name, settings)]
            weights = (as_matrix(name, tensors[name]) for name in coded)
            inputs, outputs = (part.inputs[n] for n in coded), (part.outputs[n] for n in coded)
            rates = (settings.bits(name) or bits for name in coded)
            costs = workers.map(
                make_cost, weights, inputs, outputs, repeat(settings.objective), rates
            )
            units = {}
            for matrix, cost in zip(coded, costs, strict=True):
                folder.save(f"cost-{matrix}", cost.to_arrays())
                units[matrix] = np.array(cost.unit_step)
            folder.save(f"units-{name}", units)
            folder.save(f"squares-{name}", part.squares)
    unit_steps: dict[str, float] = {}
    squares: dict[str, NDArray[np.float64]] = {}
    for name in names:
        unit_steps |= {n: float(step) for n, step in folder.require(f"units-{name}").items()}
        squares |= folder.require(f"squares-{name}")
    return Metric(unit_steps, squares, folder)


def make_cost(
    weights: Float32,
    inputs: Float32,
    outputs: Sequence[NDArray[np.float32 | np.float64]],
    objective: Objective,
    bits: float,
) -> Cost:
    """The cost of errors in a matrix.

    Args:
        weights: float32 `[K, N]`.
        inputs: the moment of its inputs, `[K, K]`.
        outputs: for each column block, the moment of the outputs' gradient `[B, B]`, or the
            outputs' importance `[B]`.
        objective: see the module.
        bits: a weight, about what the matrix will have.
    """
    shrink = 2.0**-bits
    factor = InputFactor.from_moment(inputs, INPUT_DAMPING * shrink)
    if objective == "outputs":
        outputs = [np.ones(len(part)) if part.ndim == 2 else part for part in outputs]
        importance = np.concatenate(outputs)
        power = float(np.einsum("kn,kn,n->", weights, inputs @ weights, importance)) or 1.0
        outputs = [part / power for part in outputs]
    return Cost(factor, tuple(_output_factors(outputs, _OUTPUT_DAMPING * shrink)))


def _output_factors(
    outputs: Sequence[NDArray[np.float32 | np.float64]], damping: float
) -> Iterator[OutputFactor]:
    diagonals = [part for part in outputs if part.ndim == 1]
    mean = float(np.mean(np.concatenate(diagonals))) if diagonals else 0.0
    for part in outputs:
        if part.ndim == 2:
            yield OutputFactor.from_moment(part.astype(np.float32, copy=False), damping)
        else:
            damped = part.astype(np.float64) + _TOKEN_DAMPING * (mean or 1.0)
            yield OutputFactor.from_importance(damped)
