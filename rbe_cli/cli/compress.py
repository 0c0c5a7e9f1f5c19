"""`rbe compress`: checkpoint in, `.rbe` file out."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbe_cli.cli.options import FormatOption, Offline, Quiet, Threads, Verbose
from rbe_cli.cli.output import Format, Output, facts, size, table
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.tasks.compress import CompressResult
    from rbe_cli.tasks.plan import Plan
    from rbe_cli.tasks.settings import Override, Settings


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
            help="tiny, small, balanced (the default), quality or near-lossless: "
            "2, 3, 4, 5 or 6 bits a weight. README.md shows what each costs in quality."
        ),
    ] = None,
    target_bpw: Annotated[
        float | None,
        typer.Option(help="Bits a weight of the whole file without its tokenizer."),
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
            "of more than 50 million parameters.",
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
    from rbe_cli.tasks.plan import plan
    from rbe_cli.tasks.settings import parse_override
    from rbe_cli.tasks.workers import workers

    out = Output(format, quiet, verbose)
    if calib and calib_tokens:
        raise UsageError("--calib and --calib-tokens exclude each other")
    rules = [parse_override(text) for text in override or ()]
    name, settings = _settings(preset, target_bpw, config, rules)
    if not dry_run:
        check_output(output, force=force)
        check_kind(output, MAGIC)
    with out.progress() as progress:
        checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    _check_matches(rules, checkpoint.tensors)
    if dry_run:
        planned = plan(checkpoint, settings, threads)
        out.result(planned, lambda console: _show_plan(console, planned))
        return
    options = task.CompressOptions(settings, name, calib, calib_tokens, calib_samples, seed, force)
    with workers(threads) as executor, out.progress() as progress:
        result = task.compress(checkpoint, output, options, executor, progress)
    promised, reached = settings.max_kl_divergence, result.quality.kl_divergence
    if promised is not None and reached > promised:
        out.note(f"the KL divergence of {reached:.5f} is above the {promised} that was promised")
    out.result(result, lambda console: console.print(_summary(result)))


def _settings(
    preset: str | None, target_bpw: float | None, config: Path | None, overrides: "list[Override]"
) -> "tuple[str | None, Settings]":
    """The preset's name, if the result is that preset's, and the settings.

    What a preset or config promises does not hold for another target or other rules.
    """
    import msgspec

    from rbe_cli.tasks.settings import DEFAULT_PRESET, load_config, load_preset

    if preset and config:
        raise UsageError("--preset and --config exclude each other")
    name = None if config else preset or DEFAULT_PRESET
    settings = load_config(config) if config else load_preset(str(name))
    if target_bpw is not None:
        if preset:
            raise UsageError("--preset and --target-bpw exclude each other")
        name = None
        settings = msgspec.structs.replace(settings, target_bpw=target_bpw, max_kl_divergence=None)
    if overrides:
        name = None
        settings = msgspec.structs.replace(
            settings, override=(*settings.override, *overrides), max_kl_divergence=None
        )
    settings.check("command line")
    return name, settings


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
            ("time", f"{result.seconds:.1f} s"),
            ("peak memory", size(result.peak_rss_bytes)),
        ]
    )


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
