"""List the stages of a compression, and estimate the time of each."""

from collections.abc import Iterator

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.calibration import WINDOW, default_samples, held_out
from rbe_cli.compression.drift_correction import rates_to_correct
from rbe_cli.compression.pipeline import CompressOptions
from rbe_cli.compression.settings import Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.progress import Stage

# Seconds per 1e9 (weights x tokens), with two threads of the machine of docs/results.md,
# "Forecasts".
_WRITING = 0.012
_MEASURING = 0.06
_CORRECTING = 0.035
_EVALUATING = 0.042
_TRAINING = 0.059
_ENCODING = 0.055  # seconds per million weights, with 8 states
PROBE_SPEED = 2 * 24e6
"""Weights per second of both threads of that machine, for the block that `plan` times."""
_TRAINED_TOKENS = 2048  # per training step
_SEARCHED_BITS = 4.0  # about the bits per weight that a target of KL divergence needs


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
    plans = make_plan(config, settings)
    is_corrected = bool(rates_to_correct(plans, _rate(settings, weights), settings.objective))
    if options.calib is None and options.calib_tokens is None:
        yield Stage("writing calibration text", _WRITING * work * (samples + held_out(samples)))
    yield Stage("measuring layers", _MEASURING * work * few)
    yield Stage("encoding", encoding, 1 if is_corrected else 2 * searches)
    if is_corrected:
        yield Stage("correcting drift", _CORRECTING * work * samples + encoding, searches)
    evaluations = searches
    if options.tune:
        yield Stage("tuning", 1e-9 * _TRAINING * weights * _TRAINED_TOKENS * options.tune)
        evaluations += 1
    yield Stage("evaluating", _EVALUATING * work * held_out(samples), evaluations)


def _rate(settings: Settings, weights: int) -> float:
    """Return about the bits per weight of the matrices whose rate is free."""
    if settings.target_size is not None:
        return 8 * settings.target_size / weights
    return settings.target_bpw or settings.default_bits or _SEARCHED_BITS
