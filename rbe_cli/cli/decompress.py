"""`rbe compress --decompress`: `.rbe` file in, Hugging Face folder or GGUF file out."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rbe_cli.cli.inputs import open_rbe
from rbe_cli.cli.output import Output, facts, size
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.choices import Dtype
    from rbe_cli.compression.decompression import DecompressResult

# All others say how to compress.
_OPTIONS = {"decompress", "dtype", "force", "threads", "offline", "format", "verbose", "quiet"}


def decompress(
    context: typer.Context,
    source: str,
    output: Path,
    dtype: "Dtype | None",
    *,
    force: bool,
    offline: bool,
    out: Output,
) -> None:
    """Write the model of a `.rbe` file to a folder or a GGUF file.

    Raises:
        UsageError: an option that says how to compress was given, or the type does not fit.
    """
    from rbe_cli.compression import decompression as task
    from rbe_cli.container.as_checkpoint import as_checkpoint

    _refuse_other_options(context)
    task.check_destination(output, force=force)
    with open_rbe(source, offline, out) as container, out.progress() as progress:
        checkpoint = as_checkpoint(container, source)
        result = task.decompress(
            checkpoint, output, dtype or task.DEFAULT_DTYPE, force=force, progress=progress
        )
    for note in result.notes:
        out.note(note)
    out.result(result, lambda console: console.print(_summary(result)))


def _refuse_other_options(context: typer.Context) -> None:
    """Refuse the options that were given and have no effect here."""
    for parameter in context.command.params:
        name = parameter.name or ""
        origin = context.get_parameter_source(name)
        if (
            parameter.param_type_name == "option"
            and name not in _OPTIONS
            and origin is not None
            and origin.name == "COMMANDLINE"
        ):
            raise UsageError(f"{parameter.opts[0]} says how to compress: not with --decompress")


def _summary(result: "DecompressResult") -> object:
    return facts(
        [
            ("wrote", f"{result.output} ({size(result.file_bytes)})"),
            ("from", result.source),
            ("parameters", f"{result.parameters:,}, as {result.dtype}"),
            ("time", f"{result.seconds:.1f} s"),
            ("peak memory", size(result.peak_rss_bytes)),
        ]
    )
