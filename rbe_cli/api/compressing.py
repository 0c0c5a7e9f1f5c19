"""Compress a checkpoint from Python: settings from a preset and changes to it, then the work."""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.choices import Objective
from rbe_cli.compression import pipeline
from rbe_cli.compression.dry_run import DryRun, forecast
from rbe_cli.compression.open_source import open_source
from rbe_cli.compression.pipeline import CompressOptions, CompressResult
from rbe_cli.compression.pipeline_stages import stages
from rbe_cli.compression.resource_forecast import jobs_within, memory_bytes
from rbe_cli.compression.settings import (
    DEFAULT_PRESET,
    Override,
    Settings,
    load_config,
    load_preset,
    parse_override,
)
from rbe_cli.container.atomic_file import check_kind, check_output
from rbe_cli.container.header import MAGIC
from rbe_cli.errors import UsageError
from rbe_cli.jobs.workers import Workers, cluster, workers
from rbe_cli.memory_needs import memory_for
from rbe_cli.progress import Progress, Stage, no_progress
from rbe_cli.quoting import quoted
from rbe_cli.runtime.cpus import default_threads

_TARGETS = ("target_bpw", "target_size", "target_kl")


class CompressChoices(TypedDict, total=False):
    """The keyword arguments of `compress` beside `preset`; none has to be given.

    Attributes:
        config: TOML file of the same form as the presets, instead of a preset.
        target_bpw: bits a weight of the whole file without its tokenizer.
        target_size: bytes of the whole file, which are not exceeded.
        target_kl: nats a token, the KL divergence that the smallest file will not exceed.
        overrides: rules for tensors, each an `Override` or `REGEX=KEY=VALUE[,KEY=VALUE...]`.
        objective: `kl` or `outputs`, what is as small as possible at the size.
        states: of the trellis, 8, 16, 32 or 64.
        calib: UTF-8 text to calibrate on; without it the checkpoint writes its own.
        calib_tokens: token ids to calibrate on, a `.npy` array or a text file.
        calib_samples: sequences of up to 256 tokens to calibrate on.
        seed: of every random choice, 0 unless given.
        tune: training steps afterwards; 0 only calibrates on more text.
        jobs: tasks at once; the physical cores unless given.
        cluster: address of the scheduler of a Dask cluster that runs the tasks.
        max_memory: bytes; fewer tasks run at once if they would take more.
        force: replace an existing output, and accept a file that is worse than promised.
        resume: go on from what an interrupted run of the same job has finished.
        offline: never use the network.
    """

    config: str | PathLike[str] | None
    target_bpw: float | None
    target_size: int | None
    target_kl: float | None
    overrides: Sequence[str | Override]
    objective: Objective | None
    states: int | None
    calib: str | PathLike[str] | None
    calib_tokens: str | PathLike[str] | None
    calib_samples: int | None
    seed: int
    tune: int | None
    jobs: int | None
    cluster: str | None
    max_memory: int | None
    force: bool
    resume: bool
    offline: bool


def compress(
    source: str | PathLike[str] | Checkpoint,
    out: str | PathLike[str],
    preset: str = DEFAULT_PRESET,
    *,
    progress: Progress = no_progress,
    **choices: Unpack[CompressChoices],
) -> CompressResult:
    """Compress a GPT-2 checkpoint into a `.rbe` file.

    Args:
        source: `demo`, a file or folder, a model on the Hugging Face hub, or an open checkpoint.
        out: the file to write, which appears whole or not at all.
        preset: `micro`, `tiny`, `small`, `balanced`, `quality`, `near-lossless`,
            `speed-2bit`, `speed-4bit` or `speed-8bit`. A target replaces that of `balanced`.
        progress: is called during a download and during each stage.
        choices: as of `CompressChoices`.

    Raises:
        UsageError: the choices contradict each other, or the target cannot be reached.
        NotFoundError: the source does not exist, or cannot be downloaded.
        BadFileError: the source is damaged, or no GPT-2.
        OutputError: the output exists, or cannot be written.
        QualityError: the file loses more than its preset promises; `force` accepts it.
    """
    chosen = None if preset == DEFAULT_PRESET else preset
    return Compression.prepare(source, out, chosen, progress=progress, **choices).run(progress)


@dataclass(frozen=True)
class Compression:
    """A compression whose source is open and whose settings are known.

    Attributes:
        checkpoint: what is compressed.
        output: the file to write.
        options: what it is compressed with.
        jobs: tasks at once; None for the physical cores.
        cluster: address of a Dask cluster; None for this process.
    """

    checkpoint: Checkpoint
    output: Path
    options: CompressOptions
    jobs: int | None
    cluster: str | None

    @classmethod
    def prepare(
        cls,
        source: str | PathLike[str] | Checkpoint,
        out: str | PathLike[str],
        preset: str | None = None,
        *,
        writes: bool = True,
        progress: Progress = no_progress,
        **choices: Unpack[CompressChoices],
    ) -> "Compression":
        """Check the choices and open the source.

        Args:
            source, out, progress, choices: as of `compress`.
            preset: a name; None for `balanced`, whose target may then be replaced.
            writes: whether `run` is to follow, and the output must not exist.

        Raises:
            UsageError, NotFoundError, BadFileError, OutputError: as `compress`.
        """
        calib, calib_tokens = _path(choices.get("calib")), _path(choices.get("calib_tokens"))
        if calib and calib_tokens:
            raise UsageError("`calib` and `calib_tokens` exclude each other")
        rules = [
            parse_override(rule) if isinstance(rule, str) else rule
            for rule in choices.get("overrides") or ()
        ]
        name, settings = _settings(preset, choices, rules)
        output = Path(out)
        force = choices.get("force", False)
        if writes:
            check_output(output, force=force)
            check_kind(output, MAGIC)
        checkpoint = source
        if not isinstance(checkpoint, Checkpoint):
            offline = choices.get("offline", False)
            checkpoint = open_source(str(source), offline=offline, progress=progress)
        _check_matches(rules, checkpoint.tensors)
        jobs, max_memory = choices.get("jobs"), choices.get("max_memory")
        if max_memory is not None:
            jobs = jobs_within(checkpoint.config, max_memory, jobs)
        options = CompressOptions(
            settings,
            name,
            calib,
            calib_tokens,
            choices.get("calib_samples"),
            choices.get("seed", 0),
            force,
            choices.get("resume", False),
            choices.get("tune"),
        )
        return cls(checkpoint, output, options, jobs, choices.get("cluster"))

    @property
    def work_path(self) -> Path:
        """The folder where unfinished work is kept, for `resume`."""
        return pipeline.work_path(self.output)

    def stages(self) -> list[Stage]:
        """Return what `run` will report, with its costs."""
        return stages(self.checkpoint, self.options)

    def dry_run(self, progress: Progress = no_progress) -> DryRun:
        """Return the sizes, the memory and the time that `run` would need; nothing is written."""
        with self._memory(), self._workers() as pool:
            return forecast(self.checkpoint, self.options, pool, progress)

    def run(self, progress: Progress = no_progress) -> CompressResult:
        """Do the work; errors as of `compress`."""
        with self._memory(), self._workers() as pool:
            return pipeline.compress(self.checkpoint, self.output, self.options, pool, progress)

    def _memory(self) -> AbstractContextManager[None]:
        needed = memory_bytes(self.checkpoint.config, self.jobs or default_threads())
        return memory_for("to compress the model", needed)

    def _workers(self) -> AbstractContextManager[Workers]:
        return cluster(self.cluster, self.jobs) if self.cluster else workers(self.jobs)


def _path(name: str | PathLike[str] | None) -> Path | None:
    return None if name is None else Path(name)


def _settings(
    preset: str | None, choices: CompressChoices, rules: Sequence[Override]
) -> tuple[str | None, Settings]:
    """Return the preset's name, if the result is that preset's, and the settings.

    What a preset or config promises does not hold once anything of it is changed.
    """
    config = _path(choices.get("config"))
    values: dict[str, Any] = {
        "target_bpw": choices.get("target_bpw"),
        "target_size": choices.get("target_size"),
        "target_kl": choices.get("target_kl"),
        "objective": choices.get("objective"),
        "states": choices.get("states"),
        "override": rules or None,
    }
    changes = {name: own for name, own in values.items() if own is not None}
    targets = [name for name in _TARGETS if name in changes]
    if preset and config:
        raise UsageError("`preset` and `config` exclude each other")
    if preset and targets:
        raise UsageError(f"`preset` and `{min(targets)}` exclude each other")
    settings = load_config(config) if config else load_preset(preset or DEFAULT_PRESET)
    if not changes:
        return (None if config else preset or DEFAULT_PRESET), settings
    if targets:
        settings = msgspec.structs.replace(
            settings, target_bpw=None, target_size=None, target_kl=None, default_bits=None
        )
    if rules:
        changes["override"] = (*settings.override, *rules)
    settings = msgspec.structs.replace(settings, **changes, max_kl_divergence=None, measured=None)
    settings.check("settings")
    return None, settings


def _check_matches(overrides: Sequence[Override], names: Iterable[str]) -> None:
    """Refuse a rule without effect, which is a mistake in its regular expression."""
    for rule in overrides:
        if not any(re.search(rule.match, name) for name in names):
            raise UsageError(
                f"`overrides` {quoted(rule.match)} matches no tensor of the checkpoint"
            )
