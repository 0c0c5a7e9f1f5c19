"""List the stages of a compression, and estimate the time of each."""

from collections.abc import Iterator

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.calibration import WINDOW, default_samples, held_out
from rbe_cli.compression.pipeline import CompressOptions
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.progress import Stage

# Seconds per 1e9 (weights x tokens), with two threads of the machine of docs/results.md,
# "Forecasts".
_WRITING = 0.012
_MEASURING = 0.06
_RECONSTRUCTING = 0.053
_EVALUATING = 0.042
_TRAINING = 0.059
_ENCODING = 0.055  # seconds per million weights, with 8 states
PROBE_SPEED = 2 * 24e6
"""Weights per second of both threads of that machine, for the block that `plan` times."""
_TRAINED_TOKENS = 2048  # per training step


def stages(checkpoint: Checkpoint, options: CompressOptions) -> list[Stage]:
    """Return the stages that `compress` will report, in order, with their relative times."""
    return list(_stages(checkpoint, options))


def _stages(checkpoint: Checkpoint, options: CompressOptions) -> Iterator[Stage]:
    config, settings = checkpoint.config, options.settings
    window = min(WINDOW, config.n_positions)
    weights = parameter_count(config)
    few = options.calib_samples or default_samples(config)
    samples = options.calib_samples or default_samples(config, options.tune is not None)
    work = 1e-9 * weights * window  # of one sequence
    encoding = 1e-6 * _ENCODING * weights * settings.states / 8
    searches = 3 if settings.target_kl is not None else 1
    if options.calib is None and options.calib_tokens is None:
        yield Stage("writing calibration text", _WRITING * work * (samples + held_out(samples)))
    yield Stage("measuring layers", _MEASURING * work * few)
    yield Stage("encoding", encoding, 2 * searches)
    evaluations = searches
    if options.tune is not None:
        yield Stage("reconstructing", _RECONSTRUCTING * work * samples + encoding)
        evaluations += 1
    if options.tune:
        yield Stage("tuning", 1e-9 * _TRAINING * weights * _TRAINED_TOKENS * options.tune)
        evaluations += 1
    yield Stage("evaluating", _EVALUATING * work * held_out(samples), evaluations)
