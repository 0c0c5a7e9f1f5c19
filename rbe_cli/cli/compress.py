"""`rbe compress`: checkpoint in, `.rbe` file out."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rbe_cli.cli import compress_options as options
from rbe_cli.cli.options import FormatOption, Offline, Quiet, Threads, Verbose
from rbe_cli.cli.output import Format, Output, facts, size, table
from rbe_cli.cli.quality import quality_facts
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.api.compressing import CompressChoices
    from rbe_cli.compression.dry_run import DryRun
    from rbe_cli.compression.pipeline import CompressResult

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
    out = Output(format, quiet, verbose)
    if decompress:
        from rbe_cli.cli.decompress import decompress as write_checkpoint

        write_checkpoint(context, source, output, dtype, force=force, offline=offline, out=out)
        return
    if dtype:
        raise UsageError("--dtype belongs to --decompress")
    choices: CompressChoices = {
        "config": config,
        "target_bpw": target_bpw,
        "target_size": target_size,
        "target_kl": target_kl,
        "overrides": overrides or (),
        "objective": objective,
        "states": states,
        "calib": calib,
        "calib_tokens": calib_tokens,
        "calib_samples": calib_samples,
        "seed": seed,
        "tune": tune,
        "jobs": jobs or threads,
        "cluster": cluster,
        "max_memory": max_memory,
        "force": force,
        "resume": resume,
        "offline": offline,
    }
    _compress(source, output, preset, choices, dry_run, out)


def _compress(
    source: str,
    output: Path,
    preset: str | None,
    choices: "CompressChoices",
    dry_run: bool,
    out: Output,
) -> None:
    """Compress, or say what that would give and need."""
    from rbe_cli.api.compressing import Compression

    with out.progress() as progress:
        prepared = Compression.prepare(
            source, output, preset, writes=not dry_run, progress=progress, **choices
        )
    for note in prepared.checkpoint.notes:
        out.note(note)
    if dry_run:
        with out.progress() as progress:
            planned = prepared.dry_run(progress)
        out.result(planned, lambda console: _show_forecast(console, planned))
        return
    try:
        with out.progress(prepared.stages()) as progress:
            result = prepared.run(progress)
    except BaseException:
        if prepared.work_path.exists():
            out.note(f"what is finished is kept in {prepared.work_path}: --resume goes on from it")
        raise
    for warning in result.warnings:
        out.note(warning)
    out.result(result, lambda console: console.print(_summary(result)))


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
    """Return each stage's KL divergence."""
    if result.tuning is None:
        return []
    own = result.tuning
    stages = [("untuned", own.untuned), ("tuned", own.tuned)]
    found = ", ".join(f"{name} {value:.5f}" for name, value in stages if value is not None)
    if own.steps and own.tuned is None:
        found += "; the trained parameters did not fit into the file"
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
                ("work folder", f"about {size(planned.work_bytes)}"),
                ("time", f"about {planned.seconds:.0f} s"),
                ("KL divergence", "not known" if kl is None else f"about {kl:.1g} nats a token"),
            ]
        )
    )
    console.print(table("", ("tensor", "shape", "codec", "bytes"), rows))
