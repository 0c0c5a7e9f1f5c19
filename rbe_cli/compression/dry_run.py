"""Forecast sizes, memory, time and KL divergence of a compression (`--dry-run`).

The KL divergence is forecast from a probe, which takes a few forward passes. The probe adds white
noise, as large as the expected error of each matrix, to the weights and measures the KL divergence.
The codec moves its errors to where they matter less. Therefore the divergence of the file is only
a part of that: from 1/12 to 1/3 in the models that were measured (docs/results.md, "Forecasts").
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.codec import SteppedCodec
from rbe_cli.codec.registry import codec_named
from rbe_cli.compression.calibration import default_samples, from_model
from rbe_cli.compression.encoding import mean_square
from rbe_cli.compression.metric import as_matrix
from rbe_cli.compression.pipeline import CompressOptions
from rbe_cli.compression.pipeline_stages import PROBE_SPEED, rotates, stages
from rbe_cli.compression.resource_forecast import (
    ResourceForecast,
    plan,
    weights_per_second,
    work_bytes,
)
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.on_demand import OnDemand

_SEQUENCES = 12
# Here the divergence grows with the square of the noise, and is far above rounding errors.
_PROBE_BITS = 5.0
_SHARE = 0.15  # divergence of the file / divergence of the white noise


@dataclass(frozen=True)
class DryRun(ResourceForecast):
    """A forecast of resources, with the time and the divergence that the probe gives.

    Attributes:
        seconds: time of the whole run, with tuning, from timing one block on this machine.
        work_bytes: about the most that the work folder takes on the disk.
        expected_kl_divergence: in nats per token, right within a factor of about two. None if
            no tensor has the codec `ectcq`, for which the forecast was fitted.
    """

    seconds: float
    work_bytes: int
    expected_kl_divergence: float | None


def forecast(
    checkpoint: Checkpoint,
    options: CompressOptions,
    workers: Workers,
    progress: Progress = no_progress,
) -> DryRun:
    """Forecast sizes, memory, time and quality of a compression.

    Args:
        checkpoint: the model to compress.
        options: the options of the compression.
        workers: the workers of the compression. They run the probe.
        progress: called while the probe runs.

    Raises:
        UsageError: the target cannot be reached.
    """
    planned = plan(checkpoint, options.settings, workers.jobs)
    work = sum(stage.cost * stage.passes for stage in stages(checkpoint, options))
    speed = weights_per_second(checkpoint) * workers.jobs
    bits = {}
    for tensor in planned.tensors:
        codec = codec_named(tensor.codec)
        if isinstance(codec, SteppedCodec):
            side = codec.side_bits(tensor.shape)
            count = math.prod(tensor.shape)
            bits[tensor.name] = max(8 * tensor.bytes - side, 0) / count
    kl = _SHARE * noise_kl(checkpoint, bits, workers, progress) if bits else None
    samples = options.calib_samples or default_samples(checkpoint.config, options.tune is not None)
    return DryRun(
        **vars(planned),
        seconds=work * PROBE_SPEED / speed,
        work_bytes=work_bytes(
            checkpoint.config,
            samples,
            planned.file_bytes,
            rotates=rotates(checkpoint.config, options.settings),
        ),
        expected_kl_divergence=kl,
    )


def noise_kl(
    checkpoint: Checkpoint,
    bits: Mapping[str, float],
    workers: Workers,
    progress: Progress = no_progress,
) -> float:
    """Return the KL divergence of white noise, in nats per token, on text the model generates.

    Args:
        checkpoint: the model to compress.
        bits: bits per weight by the name of a matrix. The matrix gets noise of the power that so
            many bits leave for Gaussian weights. The other tensors are not changed.
        workers: generate the text and evaluate.
        progress: called while they run.
    """
    shift = float(np.mean(list(bits.values()))) - _PROBE_BITS
    tensors, numbers = checkpoint.tensors, {name: number for number, name in enumerate(bits)}

    def original(name: str) -> Float32:
        """Return a tensor as a model takes it."""
        return as_matrix(name, tensors[name])

    def noisy(name: str) -> Float32:
        """Return a tensor as a model takes it, with noise: the same each time."""
        if name not in bits:
            return original(name)
        rng = np.random.default_rng([0, numbers[name]])
        return as_matrix(name, _with_noise(tensors[name], 2.0 ** (shift - bits[name]), rng))

    kernels = load_kernels("fast", threads=1)
    model, probe = (
        Gpt2(checkpoint.config, OnDemand(tensors, read), kernels, streamed=True)
        for read in (original, noisy)
    )
    with TemporaryDirectory() as folder:
        work = WorkFolder.open(Path(folder) / "work", {}, resume=False)
        text = from_model(checkpoint, _SEQUENCES, 0, workers, work, progress)
    found = evaluate(probe, [Window(own) for own in text.used], workers, model, progress)
    return float(found.compared().kl_divergence.value) * 4.0**-shift


def _with_noise(weights: Float32, relative: float, rng: np.random.Generator) -> Float32:
    """Return the weights plus Gaussian noise of `relative` times their root mean square."""
    scale = relative * math.sqrt(mean_square(weights))
    noise = rng.standard_normal(weights.shape, np.float32)
    return weights + np.float32(scale) * noise
