"""Forecast sizes, memory and time of a compression, without running it (`--dry-run`)."""

import time
from dataclasses import dataclass

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.codec import SteppedCodec
from rbe_cli.codec.column_blocks import MAX_COLUMNS, column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import encode_block
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.scales import column_levels
from rbe_cli.compression.calibration import (
    WINDOW,
    default_samples,
    describe,
    held_out,
    most_held_out_tokens,
    rows_at_once,
    tasks_of,
)
from rbe_cli.compression.moments import HEAD_LOGITS
from rbe_cli.compression.output_file import OutputFile
from rbe_cli.compression.settings import Settings
from rbe_cli.compression.target import find_target
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.engine.paged_cache import cache_bytes
from rbe_cli.engine.session import DEFAULT_KV_TYPE
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import MAX_BATCH_TOKENS
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.runtime.cpus import default_threads

_REPEATS = 5
_SAMPLE = 256  # rows and columns of the timed block
_INTERPRETER_BYTES = 105_000_000  # Python, numpy and compiled code
_LOGIT_COPIES = 2  # of the logits that a task computes at once
_COPIES_OF_MATRIX = 3.4  # while it is encoded in 8 bits
_BATCH_COPIES = 30  # of a batch's states, in the backward pass of a layer whose n_inner is 4 d
_FACTOR_BYTES = 24  # for each value of the largest moment
_SOLVING_BYTES = 48  # for each value of it, where a matrix is corrected
_BLOCK_BYTES = 52  # for each weight of a block that is encoded
_REPORT_COPIES = 4  # of the embedding
_ATTEMPTS = 3  # at the size of the file, which wait in the work folder
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
    """Return about the peak memory of a compression with `jobs` tasks at once, in bytes.

    No more than a layer of the model is in memory beside the embeddings, but for the 8-bit copy
    that writes the calibration text. Each number here is about one stage of the work.
    """
    d, inner = config.n_embd, config.n_inner
    embedding = 4 * config.vocab_size * d
    samples = default_samples(config)
    states = 4 * samples * min(WINDOW, config.n_positions) * d  # of all text, in one layer
    sequences = min(rows_at_once(config), samples + held_out(samples))
    cache = cache_bytes(config, sequences, DEFAULT_KV_TYPE, WINDOW)
    written = 4 * sequences * config.vocab_size * _LOGIT_COPIES
    copying = int(_COPIES_OF_MATRIX * (embedding + 4 * d * inner * (jobs - 1)))
    writing = parameter_count(config) + min(jobs, tasks_of(config, samples)) * (cache + written)
    layer = 4 * (4 * d * d + 2 * d * inner)
    encoded = parameter_count(config) // 2  # bytes of the file
    batch = 4 * min(MAX_BATCH_TOKENS, samples * WINDOW)
    logits = 4 * min(HEAD_LOGITS, batch // 4 * config.vocab_size)
    head = embedding + jobs * (_LOGIT_COPIES * logits + 4 * batch * d)
    moments = 4 * _moment_values(config)
    backward = batch * _BATCH_COPIES * d * (4 + inner // d) // 8
    layers = embedding + 2 * layer + 3 * states + moments + jobs * (2 * moments + backward)
    factoring = embedding + moments + _FACTOR_BYTES * (inner**2 + (jobs - 1) * d * d)
    block = _BLOCK_BYTES * inner * min(MAX_COLUMNS, d)
    encoding = 2 * embedding + 2 * (layer // 3) + 2 * 4 * inner**2 + jobs * block
    sums = 4 * inner * (inner + d) * (jobs + 1)  # of batches, each the size of the largest moment
    correcting = 2 * embedding + encoded + 4 * layer + _SOLVING_BYTES * inner**2 + sums
    reporting = _REPORT_COPIES * embedding + encoded
    return _INTERPRETER_BYTES + max(
        copying, writing, head, layers, factoring, encoding, correcting, reporting
    )


def work_bytes(config: Gpt2Config, samples: int, file_bytes: int, *, rotates: bool) -> int:
    """Return about the most that the work folder takes on the disk, in bytes.

    Args:
        config: of the model.
        samples: sequences of the calibration text.
        file_bytes: of the file that is made.
        rotates: whether the residual stream may be rotated.
    """
    d, layers = config.n_embd, config.n_layer
    state = 4 * samples * min(WINDOW, config.n_positions) * d
    changed = 4 * layers * (4 * d * d + 3 * d)  # heads
    if rotates:
        changed += 4 * parameter_count(config)
    costs = 2 * (layers * _moment_values(config) + 2 * d * d)  # half of each square, in float32
    measuring = max(layers * state, costs) + 2 * state
    correcting = state * (6 + 2 * config.n_inner // d)  # before and after a matrix
    return changed + max(measuring, costs + _ATTEMPTS * file_bytes + correcting)


def _moment_values(config: Gpt2Config) -> int:
    """Return how many values the moments of a layer's inputs and outputs have."""
    d, inner = config.n_embd, config.n_inner
    widths = [d, d, d, inner]
    for columns in (3 * d, d, inner, d):
        widths += [part.stop - part.start for part in column_blocks(columns)]
    return sum(width**2 for width in widths)


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
