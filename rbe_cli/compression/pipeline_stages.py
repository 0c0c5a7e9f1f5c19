"""List the stages of a compression, and estimate the time of each."""

from collections.abc import Iterator

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.calibration import WINDOW, default_samples, held_out
from rbe_cli.compression.drift_correction import rates_to_correct
from rbe_cli.compression.pipeline import CompressOptions
from rbe_cli.compression.rotated_stream import may_rotate
from rbe_cli.compression.settings import MAX_BITS, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.progress import Stage

# Seconds with two threads of the machine of docs/results.md, "Forecasts": for 1e9 weights times
# tokens, and for 1e9 channels of the residual stream times layers times tokens.
_WRITING = 0.015, 0.0
_MEASURING = 0.06, 150.0
_CORRECTING = 0.08, 100.0
_EVALUATING = 0.07, 0.0
_TRAINING = 0.08, 100.0
_ENCODING = 0.2  # seconds per million weights, with 8 states
_SEARCHING, _TURNING = 2e-8, 4e-11  # seconds for each d^3, and for each weight times d
PROBE_SPEED = 2 * 7.6e6
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
    encoding = 1e-6 * _ENCODING * weights * settings.states / 8
    searches = 3 if settings.target_kl is not None else 1
    plans = make_plan(config, settings)
    is_corrected = bool(rates_to_correct(plans, _rate(settings, weights), settings.objective))
    if options.calib is None and options.calib_tokens is None:
        written = window * (samples + held_out(samples))
        yield Stage("writing calibration text", _seconds(_WRITING, config, written))
    if rotates(config, settings):
        d = config.n_embd
        yield Stage("rotating", _SEARCHING * d**3 + _TURNING * d * weights)
    yield Stage("measuring layers", _seconds(_MEASURING, config, window * few))
    yield Stage("encoding", encoding, 1 if is_corrected else 2 * searches)
    if is_corrected:
        correcting = _seconds(_CORRECTING, config, window * samples)
        yield Stage("correcting drift", correcting, searches)
    evaluations = searches
    if options.tune:
        yield Stage("tuning", _seconds(_TRAINING, config, _TRAINED_TOKENS * options.tune))
        evaluations += 1
    evaluating = _seconds(_EVALUATING, config, window * held_out(samples))
    yield Stage("evaluating", evaluating, evaluations)


def rotates(config: Gpt2Config, settings: Settings) -> bool:
    """Return whether a rotation of the residual stream is searched (`may_rotate`).

    Above `MAX_BITS` some matrices are stored exactly.
    """
    is_lossy = _rate(settings, parameter_count(config)) <= MAX_BITS
    return is_lossy and may_rotate(make_plan(config, settings))


def _seconds(cost: tuple[float, float], config: Gpt2Config, tokens: int) -> float:
    """Return the seconds of a stage that goes through so many tokens."""
    of_weights, of_channels = cost
    channels = config.n_layer * config.n_embd
    return 1e-9 * tokens * (of_weights * parameter_count(config) + of_channels * channels)


def _rate(settings: Settings, weights: int) -> float:
    """Return about the bits per weight of the matrices whose rate is free."""
    if settings.target_size is not None:
        return 8 * settings.target_size / weights
    return settings.target_bpw or settings.default_bits or _SEARCHED_BITS
