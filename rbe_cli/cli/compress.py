"""`rbe compress`: checkpoint in, `.rbe` file out."""

import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rbe_cli.cli.inputs import parse_size
from rbe_cli.cli.options import FormatOption, Offline, Quiet, Threads, Verbose
from rbe_cli.cli.output import Format, Output, facts, size, table
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.tasks.compress import CompressResult
    from rbe_cli.tasks.plan import Plan
    from rbe_cli.tasks.settings import Override, Settings
    from rbe_cli.tasks.workers import Workers


def _show_presets(wanted: bool) -> None:
    """What each preset gives, and no more is done."""
    if not wanted:
        return
    from rbe_cli.tasks.settings import load_preset, preset_names

    def show(console: "Console") -> None:
        rows = []
        for name, preset in presets.items():
            if found := preset.measured:
                rise = 100 * (found.perplexity / found.reference_perplexity - 1)
                speed = f"{found.tokens_per_second:.0f}"
                rows.append(
                    (name, preset.description, f"{found.kl_divergence:g}", f"{rise:+.2f} %", speed)
                )
        columns = ("preset", "", "KL divergence", "perplexity", "tokens/s")
        console.print(table("", columns, rows))
        console.print("Measured on an English GPT-2 of 6 million parameters, two threads.")

    presets = {name: load_preset(name) for name in preset_names()}
    Output().result(presets, show)
    raise typer.Exit


class Objective(StrEnum):
    """What a compression makes least."""

    kl = "kl"
    outputs = "outputs"


def compress(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="demo, a folder, a .safetensors or .bin file, or a hub id (org/name@revision).",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT.rbe", help="The file to write.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="tiny, small, balanced (the default), quality or near-lossless (2 to 6 bits a "
            "weight), or speed-2bit, speed-4bit or speed-8bit; --presets shows what each costs."
        ),
    ] = None,
    target_bpw: Annotated[
        float | None,
        typer.Option(help="Bits a weight of the whole file without its tokenizer."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Size of the whole file, such as 50MB: at most this."),
    ] = None,
    target_kl: Annotated[
        float | None,
        typer.Option(
            help="KL divergence on held-out text, nats a token: the smallest file within it."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings in a TOML file of a preset's form.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REGEX=KEY=VALUE",
            help="For the tensors that match: codec=float16, codec=float32 or bits=5, or to "
            "compare with the original design: codec=classic,bits=4,block=64. Repeatable.",
        ),
    ] = None,
    calib: Annotated[
        Path | None, typer.Option(help="Text to calibrate on; default: the checkpoint writes it.")
    ] = None,
    calib_tokens: Annotated[
        Path | None, typer.Option(help="Token file to calibrate on instead of text.")
    ] = None,
    calib_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sequences of up to 256 tokens to calibrate on; default: 128, or 48 for a model "
            "of more than 50 million parameters; four times as many with --tune.",
        ),
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(
            help="What is least at the size: the model's KL divergence (the default), or the "
            "relative error of each layer's output.",
        ),
    ] = None,
    states: Annotated[
        int | None,
        typer.Option(
            help="Of the trellis, 8 (the default), 16, 32 or 64: more are a little better, and "
            "take longer to encode."
        ),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(
            metavar="STEPS",
            min=0,
            help="Then encode the layers again, each to make up for the errors before it, and "
            "train steps, biases and LayerNorms for so many steps of 2048 tokens.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show sizes, memory and time; write nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an existing output; accept a missed promise of KL."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what an interrupted run has finished.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks at once, each of one thread; fewer need less memory."),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Run so few tasks at once that memory stays below."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run the tasks on a Dask cluster with this scheduler (pip install rbe-cli[dask]).",
        ),
    ] = None,
    presets: Annotated[
        bool,
        typer.Option(
            "--presets", is_eager=True, callback=_show_presets, help="Show the presets and exit."
        ),
    ] = False,
    threads: Threads = None,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compress a GPT-2 checkpoint into an .rbe file."""
    from rbe_cli.checkpoint.source import open_checkpoint
    from rbe_cli.container.header import MAGIC
    from rbe_cli.container.publish import check_kind, check_output
    from rbe_cli.tasks import compress as task
    from rbe_cli.tasks.plan import jobs_within, plan
    from rbe_cli.tasks.settings import parse_override

    out = Output(format, quiet, verbose)
    if calib and calib_tokens:
        raise UsageError("--calib and --calib-tokens exclude each other")
    rules = [parse_override(text) for text in override or ()]
    changes = _given(
        target_bpw=target_bpw,
        target_size=target_size and parse_size("--target-size", target_size),
        target_kl=target_kl,
        objective=objective and objective.value,
        states=states,
        override=rules or None,
    )
    name, settings = _settings(preset, config, changes)
    limit = parse_size("--max-memory", max_memory) if max_memory else None
    if not dry_run:
        check_output(output, force=force)
        check_kind(output, MAGIC)
    with out.progress() as progress:
        checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    for note in checkpoint.notes:
        out.note(note)
    _check_matches(rules, checkpoint.tensors)
    jobs = jobs or threads
    if limit is not None:
        jobs = jobs_within(checkpoint.config, limit, jobs)
    if dry_run:
        planned = plan(checkpoint, settings, jobs)
        out.result(planned, lambda console: _show_plan(console, planned))
        return
    options = task.CompressOptions(
        settings, name, calib, calib_tokens, calib_samples, seed, force, resume, tune
    )
    kept = task.work_path(output)
    try:
        with _workers(cluster, jobs) as workers, out.progress() as progress:
            result = task.compress(checkpoint, output, options, workers, progress)
    except BaseException:
        if kept.exists():
            out.note(f"what is finished is kept in {kept}: --resume goes on from it")
        raise
    promised, reached = settings.max_kl_divergence, result.quality.kl_divergence
    if promised is not None and reached > promised:
        out.note(f"the KL divergence of {reached:.5f} is above the {promised} that was promised")
    out.result(result, lambda console: console.print(_summary(result)))


def _workers(address: str | None, jobs: int | None) -> "AbstractContextManager[Workers]":
    from rbe_cli.tasks.workers import cluster, workers

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

    from rbe_cli.tasks.settings import DEFAULT_PRESET, load_config, load_preset

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
            raise UsageError(f"--override {rule.match!r} matches no tensor of the checkpoint")


def _summary(result: "CompressResult") -> object:
    quality = result.quality
    return facts(
        [
            ("wrote", f"{result.output} ({size(result.file_bytes)})"),
            ("from", f"{result.source} ({size(result.original_bytes)})"),
            ("parameters", f"{result.parameters:,}"),
            ("bits per weight", f"{result.bits_per_weight:.3f}"),
            ("ratio", f"{result.ratio:.2f}"),
            ("KL divergence", f"{quality.kl_divergence:.5f} nats a token"),
            (
                "perplexity",
                f"{quality.perplexity:.3f} (original {quality.reference_perplexity:.3f}, "
                f"{quality.tokens} held-out tokens)",
            ),
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


def _show_plan(console: "Console", planned: "Plan") -> None:
    rows = [
        (
            tensor.name,
            " x ".join(map(str, tensor.shape)),
            tensor.codec,
            f"{tensor.bytes:,}",
        )
        for tensor in planned.tensors
    ]
    console.print(table("", ("tensor", "shape", "codec", "bytes"), rows))
    console.print(
        facts(
            [
                ("parameters", f"{planned.parameters:,}"),
                ("file", f"{size(planned.file_bytes)} of {size(planned.original_bytes)}"),
                ("bits per weight", f"{planned.bits_per_weight:.3f}"),
                ("memory", f"about {size(planned.memory_bytes)}"),
                ("encoding", f"about {planned.encoding_seconds:.0f} s, forward passes on top"),
            ]
        )
    )
