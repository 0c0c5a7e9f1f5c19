"""What an error in each matrix costs the model, in the codec's terms (codec/feedback.py).

All costs are in nats a token, so that one factor makes the steps of all matrices: the model
loses least at a given size where every weight's last bit is worth the same.
"""

from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.names import is_embedding, is_matrix
from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.codec.geometry import column_blocks
from rbe_cli.tasks.encoding import Source
from rbe_cli.tasks.moments import Moments
from rbe_cli.tasks.settings import Settings

Float32 = NDArray[np.float32]
# What is added to the moments' diagonals, of their mean, at a bit a weight. Coarse steps move
# the model out of the reach of second-order terms, and it then matters that no direction is
# taken for free (docs/MEASUREMENTS.md).
_INPUT_DAMPING = 0.2
_OUTPUT_DAMPING = 0.6
_TOKEN_DAMPING = 0.02  # of the tokens' importance: calibration saw few of the rare ones


def is_coded(name: str, settings: Settings) -> bool:
    """Whether a tensor becomes hybrid blocks."""
    return is_matrix(name) and settings.codec(name) == "ectcq"


def is_classic(name: str, settings: Settings) -> bool:
    """Whether a tensor becomes blocks of the classic scheme."""
    return is_matrix(name) and settings.codec(name) == "classic"


def make_sources(
    tensors: Mapping[str, Float32],
    moments: Moments,
    settings: Settings,
    bits: float,
    executor: Executor,
) -> dict[str, Source]:
    """The matrices to encode, with what their errors cost.

    Args:
        tensors: of the checkpoint.
        moments: of its model; those of linear layers are taken out, to save memory.
        settings: which matrices are left as they are.
        bits: a weight, about what the matrices will have.
        executor: factors matrices side by side.
    """
    names = [name for name in tensors if is_coded(name, settings)]
    shrink = 2.0**-bits

    def make(name: str) -> Source:
        weights = tensors[name]
        if is_embedding(name):
            weights = np.ascontiguousarray(weights.T)
            inputs, importance = _embedding_cost(name, moments, weights.shape[1])
            outputs = _by_block(importance)
        else:
            inputs = moments.inputs.pop(name)
            outputs = tuple(
                OutputFactor.from_moment(moment, _OUTPUT_DAMPING * shrink)
                for moment in moments.outputs.pop(name)
            )
        return Source(weights, InputFactor.from_moment(inputs, _INPUT_DAMPING * shrink), outputs)

    return dict(zip(names, executor.map(make, names), strict=True))


def _embedding_cost(name: str, moments: Moments, rows: int) -> tuple[Float32, NDArray[np.float64]]:
    """(moment of the inputs, importance of each row) of an embedding or the head.

    A token's embedding counts as often as the token comes, about as often as it is predicted;
    a tied matrix pays for both of its uses. Positions count alike.
    """
    if name == "wpe.weight":
        return moments.embedded, np.full(rows, 1 / rows)
    moment = moments.inputs.get(name)
    if moment is None:
        moment = moments.embedded
    elif name == "wte.weight":
        moment = moment + moments.embedded
    return moment, moments.importance


def _by_block(importance: NDArray[np.float64]) -> tuple[OutputFactor, ...]:
    damped = importance + _TOKEN_DAMPING * (float(np.mean(importance)) or 1.0)
    return tuple(
        OutputFactor.from_importance(damped[columns]) for columns in column_blocks(len(importance))
    )
