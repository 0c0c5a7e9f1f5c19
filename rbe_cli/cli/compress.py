"""`rbe compress`: checkpoint in, `.rbe` file out."""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rbe_cli.cli import compress_options as options
from rbe_cli.cli.options import FormatOption, Offline, Quiet, Threads, Verbose
from rbe_cli.cli.output import Format, Output, facts, size, table
from rbe_cli.cli.quality import quality_facts
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.compression.dry_run import DryRun
    from rbe_cli.compression.pipeline import CompressResult
    from rbe_cli.compression.settings import Override, Settings
    from rbe_cli.jobs.workers import Workers

EXAMPLES = """\
rbe compress demo demo.rbe
rbe compress gpt2 gpt2.rbe --preset quality
rbe compress ./my-gpt2 small.rbe --target-size 20MB --calib my-text.txt
rbe compress gpt2 gpt2.rbe --target-bpw 3 --override "wte=codec=float16" --dry-run
rbe compress --decompress gpt2.rbe ./gpt2-again --dtype float16"""


def compress(
    context: typer.Context,
    source: options.Source,
    output: options.Destination,
    preset: options.Preset = None,
    presets: options.Presets = False,
    target_bpw: options.TargetBpw = None,
    target_size: options.TargetSize = None,
    target_kl: options.TargetKl = None,
    config: options.Config = None,
    overrides: options.Overrides = None,
    objective: options.ObjectiveOption = None,
    states: options.States = None,
    calib: options.Calib = None,
    calib_tokens: options.CalibTokens = None,
    calib_samples: options.CalibSamples = None,
    tune: options.Tune = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    resume: options.Resume = False,
    decompress: options.Decompress = False,
    dtype: options.DtypeOption = None,
    jobs: options.Jobs = None,
    max_memory: options.MaxMemory = None,
    threads: Threads = None,
    cluster: options.Cluster = None,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compress a GPT-2 checkpoint into an .rbe file, or decompress such a file."""
    from rbe_cli.cli.decompress import decompress as write_checkpoint
    from rbe_cli.compression import pipeline as task
    from rbe_cli.compression.dry_run import forecast
    from rbe_cli.compression.open_source import open_source
    from rbe_cli.compression.pipeline_stages import stages
    from rbe_cli.compression.resource_forecast import jobs_within
    from rbe_cli.compression.settings import parse_override
    from rbe_cli.container.atomic_file import check_kind, check_output
    from rbe_cli.container.header import MAGIC

    out = Output(format, quiet, verbose)
    if decompress:
        write_checkpoint(
            context,
            source,
            output,
            dtype and dtype.value,
            force=force,
            offline=offline,
            out=out,
        )
        return
    if dtype:
        raise UsageError("--dtype belongs to --decompress")
    if calib and calib_tokens:
        raise UsageError("--calib and --calib-tokens exclude each other")
    rules = [parse_override(text) for text in overrides or ()]
    changes = _given(
        target_bpw=target_bpw,
        target_size=target_size,
        target_kl=target_kl,
        objective=objective and objective.value,
        states=states,
        override=rules or None,
    )
    name, settings = _settings(preset, config, changes)
    if not dry_run:
        check_output(output, force=force)
        check_kind(output, MAGIC)
    with out.progress() as progress:
        checkpoint = open_source(source, offline=offline, progress=progress)
    for note in checkpoint.notes:
        out.note(note)
    _check_matches(rules, checkpoint.tensors)
    jobs = jobs or threads
    if max_memory is not None:
        jobs = jobs_within(checkpoint.config, max_memory, jobs)
    chosen = task.CompressOptions(
        settings, name, calib, calib_tokens, calib_samples, seed, force, resume, tune
    )
    if dry_run:
        with _workers(cluster, jobs) as workers, out.progress() as progress:
            planned = forecast(checkpoint, chosen, workers, progress)
        out.result(planned, lambda console: _show_forecast(console, planned))
        return
    kept = task.work_path(output)
    try:
        expected = stages(checkpoint, chosen)
        with _workers(cluster, jobs) as workers, out.progress(expected) as progress:
            result = task.compress(checkpoint, output, chosen, workers, progress)
    except BaseException:
        if kept.exists():
            out.note(f"what is finished is kept in {kept}: --resume goes on from it")
        raise
    for warning in result.warnings:
        out.note(warning)
    out.result(result, lambda console: console.print(_summary(result)))


def _workers(address: str | None, jobs: int | None) -> "AbstractContextManager[Workers]":
    from rbe_cli.jobs.workers import cluster, workers

    return cluster(address, jobs) if address else workers(jobs)


def _given(**values: object) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _settings(
    preset: str | None, config: Path | None, changes: dict[str, Any]
) -> "tuple[str | None, Settings]":
    """The preset's name, if the result is that preset's, and the settings.

    What a preset or config promises does not hold once anything of it is changed.
    """
    import msgspec

    from rbe_cli.compression.settings import DEFAULT_PRESET, load_config, load_preset

    if preset and config:
        raise UsageError("--preset and --config exclude each other")
    targets = {"target_bpw", "target_size", "target_kl"} & changes.keys()
    if preset and targets:
        option = min(targets).replace("_", "-")
        raise UsageError(f"--preset and --{option} exclude each other")
    settings = load_config(config) if config else load_preset(preset or DEFAULT_PRESET)
    if not changes:
        return (None if config else preset or DEFAULT_PRESET), settings
    if targets:
        settings = msgspec.structs.replace(
            settings, target_bpw=None, target_size=None, target_kl=None, default_bits=None
        )
    if "override" in changes:
        changes["override"] = (*settings.override, *changes["override"])
    settings = msgspec.structs.replace(settings, **changes, max_kl_divergence=None, measured=None)
    settings.check("command line")
    return None, settings


def _check_matches(overrides: "list[Override]", names: Iterable[str]) -> None:
    """A rule without effect is a mistake in its regular expression."""
    for rule in overrides:
        if not any(re.search(rule.match, name) for name in names):
            raise UsageError(f"`overrides` {rule.match!r} matches no tensor of the checkpoint")


def _summary(result: "CompressResult") -> object:
    return facts(
        [
            ("wrote", f"{result.output} ({size(result.file_bytes)})"),
            ("from", f"{result.source} ({size(result.original_bytes)})"),
            ("parameters", f"{result.parameters:,}"),
            ("bits per weight", f"{result.bits_per_weight:.3f}"),
            ("ratio", f"{result.ratio:.2f}"),
            *quality_facts(asdict(result.quality), f"text {result.quality.text}"),
            *_tuning(result),
            ("time", f"{result.seconds:.1f} s"),
            ("peak memory", size(result.peak_rss_bytes)),
        ]
    )


def _tuning(result: "CompressResult") -> list[tuple[str, str]]:
    """Each stage's KL divergence."""
    if result.tuning is None:
        return []
    own = result.tuning
    stages = [("untuned", own.untuned), ("reconstructed", own.reconstructed), ("tuned", own.tuned)]
    found = ", ".join(f"{name} {value:.5f}" for name, value in stages if value is not None)
    return [("tuning", found)]


def _show_forecast(console: "Console", planned: "DryRun") -> None:
    kl = planned.expected_kl_divergence
    rows = [
        (
            tensor.name,
            " x ".join(map(str, tensor.shape)),
            tensor.codec,
            f"{tensor.bytes:,}",
        )
        for tensor in planned.tensors
    ]
    console.print(
        facts(
            [
                ("parameters", f"{planned.parameters:,}"),
                ("file", f"{size(planned.file_bytes)} of {size(planned.original_bytes)}"),
                ("bits per weight", f"{planned.bits_per_weight:.3f}"),
                ("memory", f"about {size(planned.memory_bytes)}"),
                ("time", f"about {planned.seconds:.0f} s"),
                ("KL divergence", "not known" if kl is None else f"about {kl:.1g} nats a token"),
            ]
        )
    )
    console.print(table("", ("tensor", "shape", "codec", "bytes"), rows))
