"""Compress a checkpoint to a `.rbe` file, stage by stage.

The stages are: plan, calibration text, rotation, cost of errors, quantisation steps, encoding,
evaluation, writing.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import xxhash

from rbe_cli import __version__
from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression import calibration
from rbe_cli.compression.decorrelated_heads import with_decorrelated_heads
from rbe_cli.compression.divergence_search import store_at_divergence
from rbe_cli.compression.drift_correction import DriftCorrection
from rbe_cli.compression.metric import Metric, as_matrix, measure
from rbe_cli.compression.output_file import OutputFile, Quality
from rbe_cli.compression.quality_check import Expectation, expect
from rbe_cli.compression.rate_control import GOOD_ENOUGH
from rbe_cli.compression.rotated_stream import with_rotated_stream
from rbe_cli.compression.settings import Settings
from rbe_cli.compression.storing import Storing
from rbe_cli.compression.target import Target, find_target
from rbe_cli.compression.tensor_encoder import TensorEncoder
from rbe_cli.compression.tensor_plan import make_plan, with_exact
from rbe_cli.compression.tensor_report import TensorReport, report
from rbe_cli.compression.tune.tuning import Tuning, TuningReport, room_for_training
from rbe_cli.container.atomic_file import check_output
from rbe_cli.container.atomic_write import gone_error
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.engine.warm_up import warm_up
from rbe_cli.errors import CheckpointError, NotFoundError, QualityError, UsageError
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.jobs.peak_memory import peak_rss_bytes
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32
from rbe_cli.runtime.native import prepare
from rbe_cli.weights.on_demand import OnDemand


@dataclass(frozen=True)
class CompressOptions:
    """The options of a compression.

    Attributes:
        settings: the target and the overrides.
        preset: the name of the settings, or None if they are not a preset.
        calib: a text file to calibrate on. If `calib_tokens` is None too, the checkpoint
            generates the calibration text itself.
        calib_tokens: a token file to calibrate on.
        calib_samples: number of calibration sequences; None for `default_samples`.
        seed: the seed of every random choice.
        force: whether to replace an existing output, and to write a file whose quality is
            worse than it should be.
        resume: whether to continue an interrupted run of the same job.
        tune: number of training steps (tune/tuning.py); None for no tuning, and less text.
    """

    settings: Settings
    preset: str | None = None
    calib: Path | None = None
    calib_tokens: Path | None = None
    calib_samples: int | None = None
    seed: int = 0
    force: bool = False
    resume: bool = False
    tune: int | None = None


@dataclass(frozen=True)
class CompressResult:
    """Describe what was written, in the fields of docs/json.md.

    Attributes:
        tuning: None if there was no tuning.
        warnings: faults of the quality that `force` accepted, one sentence each.
    """

    source: str
    output: str
    preset: str | None
    parameters: int
    bits_per_weight: float
    file_bytes: int
    original_bytes: int
    ratio: float
    seconds: float
    peak_rss_bytes: int
    tensors: list[TensorReport]
    quality: Quality
    tuning: TuningReport | None
    warnings: list[str]


def work_path(output: Path) -> Path:
    """Return the folder that keeps unfinished work on an output file."""
    return output.with_name(f"{output.name}.work")


def compress(
    checkpoint: Checkpoint,
    output: Path,
    options: CompressOptions,
    workers: Workers,
    progress: Progress = no_progress,
) -> CompressResult:
    """Compress a checkpoint to the file `output`, which is written only once it is complete.

    Finished parts of the work are kept in the folder `work_path(output)` until the file is
    written. The folder remains if the work is interrupted or its quality is refused.

    Args:
        checkpoint: the model to compress.
        output: the file to write. Its folder must exist.
        options: target, calibration, seed and tuning.
        workers: run the parts of each stage in parallel.
        progress: called with the stage, the parts done and the parts in total.

    Raises:
        UsageError: the target cannot be reached, the calibration cannot be used, or the work to
            be resumed belongs to another job.
        OutputError: the output exists (without `force`) or cannot be written.
        CheckpointError: a tensor holds NaN or infinity.
        QualityError: the KL divergence is above `max_kl_divergence`, or far above what the bits
            per weight should cost (without `force`).
    """
    check_output(output, force=options.force)
    job = _job(checkpoint, options)
    folder = WorkFolder.open(work_path(output), job, resume=options.resume)
    try:
        result = _compress(checkpoint, output, options, workers, folder, progress)
        folder.remove()
    except (UsageError, CheckpointError):  # a resumed run would fail in the same way
        folder.remove()
        raise
    finally:
        folder.release()
    return result


def _job(checkpoint: Checkpoint, options: CompressOptions) -> dict[str, object]:
    """Return everything that the bytes of the file depend on."""
    text = options.calib or options.calib_tokens
    return {
        "version": __version__,
        "source": checkpoint.source_hash,
        "config": msgspec.to_builtins(checkpoint.config),
        "tokenizer": xxhash.xxh3_64_hexdigest(checkpoint.tokenizer_json or b""),
        "settings": msgspec.to_builtins(options.settings),
        "calibration": _file_hash(text) if text else None,
        "samples": options.calib_samples,
        "seed": options.seed,
        "tune": options.tune,
    }


def _file_hash(path: Path) -> str:
    with open_file(path) as file:
        return xxhash.xxh3_64_hexdigest(file.read())


def _compress(
    checkpoint: Checkpoint,
    output: Path,
    options: CompressOptions,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> CompressResult:
    started = time.perf_counter()
    settings = options.settings
    description, text = calibration.describe(options.calib, options.calib_tokens)
    tokens = calibration.most_held_out_tokens(checkpoint.config, _samples(checkpoint, options))
    file = OutputFile(
        checkpoint, settings.goals, options.preset, description, options.seed, text, tokens
    )
    plans = make_plan(checkpoint.config, settings)
    target = find_target(plans, checkpoint.tensors, settings, file)
    warm_up(load_kernels("fast", threads=1), progress)
    prepare(("codec",), progress=progress)
    calib = _calibrate(checkpoint, options, workers, folder, progress)
    made = _make(checkpoint, options, target, file, calib, workers, folder, progress)
    if settings.target_kl is not None and made.quality.kl_divergence > settings.target_kl:
        # No lossy file is this close. Exact tensors are, unless a rule makes some tensors lossy.
        exact = replace(target, plans=with_exact(plans, checkpoint.tensors))
        part = folder.part("exact-")  # in a basis of its own
        made = _make(checkpoint, options, exact, file, calib, workers, part, progress, search=False)
        if made.quality.kl_divergence > settings.target_kl:
            raise UsageError(
                f"a KL divergence of {settings.target_kl} cannot be reached with these rules: "
                f"the nearest is {made.quality.kl_divergence:.2e}"
            )
    warnings = _warnings(options, made)
    if warnings and not options.force:
        raise QualityError(f"{warnings[0]}; `force` accepts it")
    try:
        file_bytes = file.write(output, made.stored, made.quality, force=options.force)
    except NotFoundError as error:  # of the folder, which was there when the work began
        raise gone_error(output, output.parent) from error
    return CompressResult(
        source=checkpoint.source,
        output=str(output),
        preset=options.preset,
        parameters=parameter_count(checkpoint.config),
        bits_per_weight=file.bits_per_weight(file_bytes),
        file_bytes=file_bytes,
        original_bytes=checkpoint.weight_bytes,
        ratio=checkpoint.weight_bytes / file_bytes,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
        tensors=made.reports,
        quality=made.quality,
        tuning=made.tuning,
        warnings=warnings,
    )


def _warnings(options: CompressOptions, made: "_Made") -> list[str]:
    """Return the faults of a file's quality, which are errors unless `force` is set."""
    found, reached = [], made.quality.kl_divergence
    promised = options.settings.max_kl_divergence
    if not made.expectation.is_met(reached):
        found.append(
            f"the KL divergence of {reached:.3g} nats a token is far above the "
            f"{made.expectation.most:.1g} that these rates should cost at most, so that something "
            f"went wrong: the errors of {made.expectation.worst} cost most"
        )
    if promised is not None and not reached <= promised:
        found.append(
            f"the KL divergence of {reached:.5f} nats a token is above the "
            f"{promised} that {options.preset or 'the config'} promises"
        )
    return found


@dataclass(frozen=True)
class _Made:
    """The encoded tensors of a file, and what was measured of them."""

    stored: Sequence[StoredTensor]
    quality: Quality
    tuning: TuningReport | None
    reports: list[TensorReport]
    expectation: Expectation


def _make(
    checkpoint: Checkpoint,
    options: CompressOptions,
    target: Target,
    file: OutputFile,
    text: calibration.Calibration,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
    *,
    search: bool = True,
) -> _Made:
    """Measure the costs of errors, encode all tensors, and evaluate the result.

    Args:
        checkpoint, options: see `compress`.
        target: the plans and the rate to reach.
        file: the file that will be written.
        text: to calibrate on.
        workers, progress: see `compress`.
        folder: keeps finished parts of the work.
        search: whether to search the rate that meets a target of KL divergence.
    """
    settings, plans = options.settings, target.plans
    kernels = load_kernels("fast", threads=1)
    tensors, rotation = with_rotated_stream(checkpoint, plans, folder, workers.team, progress)
    tensors = with_decorrelated_heads(checkpoint.config, tensors, plans, folder)
    matrices = OnDemand(tensors, lambda name: as_matrix(name, tensors[name]))
    model = Gpt2(checkpoint.config, matrices, kernels, streamed=True)
    # More text than this improves the tuning, but not the metric.
    few = options.calib_samples or calibration.default_samples(checkpoint.config)
    metric = measure(
        model, tensors, text.used[:few], plans, settings.objective, target.matrix_bits,
        options.seed, workers, folder, progress,
    )  # fmt: skip
    encoder = TensorEncoder(plans, tensors, metric, workers, rotation)
    correction = DriftCorrection(model, text.used, workers, folder, progress)
    storing = Storing(encoder, correction, settings.objective, file, workers, folder, progress)

    def quality(stored: Sequence[StoredTensor]) -> Quality:
        """Measure encoded tensors on the held-out text."""
        return _measure(model, stored, text, workers, progress)

    stored: Sequence[StoredTensor]
    if settings.target_kl is None or not search:
        room = room_for_training(plans) if options.tune else 0.0
        # In a tiny model, the trained parameters may take more than the whole target.
        wanted = max(target.bits_per_weight - room, target.bits_per_weight / 2)
        stored = storing.store(wanted, target.most)
        reached = quality(stored)
    else:
        stored, reached = store_at_divergence(
            settings.target_kl, target.bits_per_weight, storing.store, quality
        )
    if file.bits_per_weight_of(stored) > target.most:
        raise UsageError(f"{settings.target_size} bytes cannot be reached: the nearest is larger")
    tuning = None
    if options.tune is not None:
        tune = Tuning(model, encoder, text.used, options.seed, workers, folder, progress)
        reached_bits = max(target.bits_per_weight, file.bits_per_weight_of(stored))
        largest = min(target.most, (1 + GOOD_ENOUGH) * reached_bits)
        stored, reached, tuning = tune(
            stored, reached, options.tune, quality,
            lambda own: file.bits_per_weight_of(own) <= largest,
        )  # fmt: skip
    reports = list(_reports(stored, tensors, metric, model.head.name, workers))
    expectation = expect(reports, plans, metric)
    return _Made(stored, reached, tuning, reports, expectation)


def _calibrate(
    checkpoint: Checkpoint,
    options: CompressOptions,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> calibration.Calibration:
    samples, seed = _samples(checkpoint, options), options.seed
    if options.calib:
        return calibration.from_text(checkpoint, options.calib, samples, seed)
    if options.calib_tokens:
        return calibration.from_token_file(checkpoint, options.calib_tokens, samples, seed)
    return calibration.from_model(checkpoint, samples, seed, workers, folder, progress)


def _samples(checkpoint: Checkpoint, options: CompressOptions) -> int:
    """Return how many sequences to calibrate on."""
    tunes = options.tune is not None
    return options.calib_samples or calibration.default_samples(checkpoint.config, tunes)


def _reports(
    stored: Sequence[StoredTensor],
    tensors: Mapping[str, Float32],
    metric: Metric,
    head: str,
    workers: Workers,
) -> Iterator[TensorReport]:
    arguments = ((own, tensors[own.name], metric.layer_inputs(own.name, head)) for own in stored)
    return workers.starmap(report, arguments)


def _measure(
    model: Gpt2,
    stored: Sequence[StoredTensor],
    text: calibration.Calibration,
    workers: Workers,
    progress: Progress,
) -> Quality:
    """Measure the tensors in the form the engine runs them, on the held-out text."""
    by_name = {tensor.name: tensor for tensor in stored}
    weights = OnDemand(by_name, lambda name: by_name[name].resident())
    compressed = Gpt2(model.config, weights, model.kernels, streamed=True)
    windows = [Window(sequence) for sequence in text.held_out]
    found = evaluate(compressed, windows, workers, model, progress)
    return Quality.of(found, windows, text.text)
