"""What a compression would give and need, without doing it (`--dry-run`)."""

import time
from dataclasses import dataclass
from math import prod

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.names import is_matrix, parameter_count, tensor_shapes
from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.codec.geometry import column_blocks
from rbe_cli.codec.matrix import encode_block
from rbe_cli.container.geometry import DENSE_ITEM_BYTES, dense_bytes
from rbe_cli.errors import UsageError
from rbe_cli.kernels.cpus import default_threads
from rbe_cli.tasks.calibration import MAX_BATCH_LOGITS, MAX_BATCH_TOKENS
from rbe_cli.tasks.settings import Settings

_SAMPLE = 256  # rows and columns of the block that is timed
_INTERPRETER_BYTES = 200_000_000  # Python with Numba and its code
_LOGITS_COPIES = 4  # logits, probabilities, noise and gradient
_PASSES = 2.5  # forecasting and two attempts, in times of encoding every weight once


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor and the bytes it is expected to take."""

    name: str
    shape: tuple[int, ...]
    codec: str
    bytes: int


@dataclass(frozen=True)
class Plan:
    """Forecast of a compression.

    Attributes:
        memory_bytes: about the peak.
        encoding_seconds: from timing one block here and now; the forward passes come on top.
        tensors: with the matrices that share the target at an even rate.
    """

    source: str
    parameters: int
    original_bytes: int
    bits_per_weight: float
    file_bytes: int
    memory_bytes: int
    encoding_seconds: float
    tensors: list[PlannedTensor]


def plan(checkpoint: Checkpoint, settings: Settings, threads: int | None = None) -> Plan:
    """Forecast sizes, memory and time."""
    shapes = tensor_shapes(checkpoint.config)
    parameters = parameter_count(checkpoint.config)
    total = int(settings.target_bpw * parameters / 8)
    planned: dict[str, PlannedTensor] = {}
    shared = {}
    for name, shape in shapes.items():
        count, bits = prod(shape), settings.bits(name)
        codec = settings.codec(name)
        if not is_matrix(name) or codec in DENSE_ITEM_BYTES:
            codec = codec if codec in DENSE_ITEM_BYTES else "float16"
            planned[name] = PlannedTensor(name, shape, codec, dense_bytes(codec, shape))
        elif bits is not None:
            planned[name] = PlannedTensor(name, shape, codec, int(bits * count / 8))
        else:
            shared[name] = count
    left = total - sum(tensor.bytes for tensor in planned.values())
    if shared and left <= 0:
        raise UsageError(f"{settings.target_bpw} bits a weight cannot be reached with these rules")
    for name, count in shared.items():
        share = left * count // sum(shared.values())
        planned[name] = PlannedTensor(name, shapes[name], settings.codec(name), share)
    file_bytes = sum(tensor.bytes for tensor in planned.values())
    encoded = sum(prod(tensor.shape) for tensor in planned.values() if tensor.codec == "ectcq")
    return Plan(
        checkpoint.source,
        parameters,
        checkpoint.weight_bytes,
        8 * file_bytes / parameters,
        file_bytes,
        _memory_bytes(checkpoint.config, parameters),
        _PASSES * encoded / _weights_per_second(checkpoint) / (threads or default_threads()),
        [planned[name] for name in shapes],
    )


def _memory_bytes(config: Gpt2Config, parameters: int) -> int:
    """Peak while layers are measured: two sums of every moment, and two batches of logits."""
    moments = config.n_layer * (3 * config.n_embd**2 + config.n_inner**2) + config.n_embd**2
    for columns in (3 * config.n_embd, config.n_embd, config.n_inner, config.n_embd):
        widths = [part.stop - part.start for part in column_blocks(columns)]
        moments += config.n_layer * sum(width**2 for width in widths)
    logits = min(MAX_BATCH_TOKENS * config.vocab_size, MAX_BATCH_LOGITS)
    return _INTERPRETER_BYTES + 4 * (parameters + 2 * moments + 2 * _LOGITS_COPIES * logits)


def _weights_per_second(checkpoint: Checkpoint) -> float:
    """Speed of one thread on one block of this checkpoint, compilation left out."""
    weights = checkpoint.tensors["h.0.mlp.c_fc.weight"][:_SAMPLE, :_SAMPLE].copy()
    rows, columns = weights.shape
    inputs = InputFactor.from_moment(np.eye(rows, dtype=np.float32), 0.0)
    outputs = OutputFactor.from_moment(np.eye(columns, dtype=np.float32), 0.0)
    step = float(np.std(weights)) or 1.0
    encode_block(weights, step, inputs, outputs)
    start = time.perf_counter()
    encode_block(weights, step, inputs, outputs)
    return weights.size / (time.perf_counter() - start)
