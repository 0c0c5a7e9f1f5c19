"""Forecast sizes, memory and time of a compression, without running it (`--dry-run`)."""

import time
from dataclasses import dataclass

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.codec import SteppedCodec
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import encode_block
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.scales import column_levels
from rbe_cli.compression.calibration import default_samples, describe, most_held_out_tokens
from rbe_cli.compression.output_file import OutputFile
from rbe_cli.compression.settings import Settings
from rbe_cli.compression.target import find_target
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import CHUNK_LOGITS, MAX_BATCH_TOKENS
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.runtime.cpus import default_threads

_REPEATS = 5
_SAMPLE = 256  # rows and columns of the timed block
_INTERPRETER_BYTES = 300_000_000  # Python with Numba and compiled code
_LOGITS_BYTES = 6 * 4 * CHUNK_LOGITS  # logits, probabilities, noise and gradient of one task
_FACTOR_COPIES = 4  # of the largest moment, in float64
_PASSES = 2.5  # forecasting and two attempts, in units of encoding every weight once


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor, and the bytes that it is expected to take in the file."""

    name: str
    shape: tuple[int, ...]
    codec: str
    bytes: int


@dataclass(frozen=True)
class ResourceForecast:
    """The forecast of what a compression gives and needs.

    Attributes:
        memory_bytes: about the peak memory.
        encoding_seconds: from timing one block on this machine, without forward passes.
        tensors: all tensors. The matrices that share the target have the same bits per weight.
    """

    source: str
    parameters: int
    original_bytes: int
    bits_per_weight: float
    file_bytes: int
    memory_bytes: int
    encoding_seconds: float
    tensors: list[PlannedTensor]


def plan(checkpoint: Checkpoint, settings: Settings, jobs: int | None = None) -> ResourceForecast:
    """Forecast sizes, memory and time of a compression.

    Args:
        checkpoint: the model to compress.
        settings: the target and the overrides.
        jobs: the number of tasks at once; None for the default.

    Raises:
        UsageError: the target cannot be reached.
    """
    jobs = jobs or default_threads()
    config = checkpoint.config
    description, text = describe(None, None)
    tokens = most_held_out_tokens(config, default_samples(config))
    file = OutputFile(checkpoint, settings.goals, None, description, 0, text, tokens)
    target = find_target(make_plan(config, settings), checkpoint.tensors, settings, file)
    planned = [
        PlannedTensor(own.name, own.shape, own.codec.name, own.expected_bytes(target.matrix_bits))
        for own in target.plans
    ]
    # `file.bytes` would give all matrices of equal size the same padding; real sizes differ.
    file_bytes = target.overhead_bytes + sum(tensor.bytes for tensor in planned)
    encoded = sum(own.size for own in target.plans if isinstance(own.codec, SteppedCodec))
    parameters = parameter_count(config)
    return ResourceForecast(
        checkpoint.source,
        parameters,
        checkpoint.weight_bytes,
        file.bits_per_weight(file_bytes),
        file_bytes,
        memory_bytes(config, jobs),
        _PASSES * encoded / weights_per_second(checkpoint) / jobs,
        planned,
    )


def jobs_within(config: Gpt2Config, limit: int, jobs: int | None) -> int:
    """Return the largest number of tasks at once whose peak memory is within `limit` bytes.

    Raises:
        UsageError: even one task needs more memory.
    """
    for count in range(jobs or default_threads(), 0, -1):
        if memory_bytes(config, count) <= limit:
            return count
    needed = memory_bytes(config, 1) / 1e9
    raise UsageError(f"at least about {needed:.2f} GB are needed, more than `max_memory`")


def memory_bytes(config: Gpt2Config, jobs: int) -> int:
    """Return about the peak memory of a compression with `jobs` tasks at once, in bytes."""
    parameters, inner = parameter_count(config), config.n_inner
    moments = 3 * config.n_embd**2 + inner**2  # values of one layer
    for columns in (3 * config.n_embd, config.n_embd, inner, config.n_embd):
        moments += sum((part.stop - part.start) ** 2 for part in column_blocks(columns))
    # The sums of a layer and of batches that were not added yet, and later their factors.
    measuring = 4 * moments * (1 + 2 * jobs)
    factoring = 4 * moments + _FACTOR_COPIES * 8 * inner**2
    # Outputs of every layer and logits of both models, and later the errors of each matrix.
    states = 2 * 4 * config.n_layer * MAX_BATCH_TOKENS * config.n_embd
    evaluating = parameters + jobs * (states + _LOGITS_BYTES)
    reporting = parameters + 2 * (1 + jobs) * 4 * config.vocab_size * config.n_embd
    peak = max(measuring, factoring, evaluating, reporting)
    return _INTERPRETER_BYTES + 4 * parameters + parameters // 2 + peak


def weights_per_second(checkpoint: Checkpoint) -> float:
    """Return how many weights per second one thread encodes, from timing one block."""
    weights = checkpoint.tensors["h.0.mlp.c_fc.weight"][:_SAMPLE, :_SAMPLE].copy()
    rows, columns = weights.shape
    inputs = InputFactor.from_moment(np.eye(rows, dtype=np.float32), 0.0)
    levels = column_levels(weights)
    outputs = OutputFactor.from_moment(np.eye(columns, dtype=np.float32), 0.0, levels)
    step = float(np.std(weights)) or 1.0
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        encode_block(weights, step, inputs, outputs)
        seconds.append(time.perf_counter() - start)
    return weights.size / min(seconds)
