"""`rbe run`: one forward pass, or a whole text's perplexity."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from rbe_cli.cli.inputs import load_tokenizer, open_rbe, read_prompts
from rbe_cli.cli.numbers import whole
from rbe_cli.cli.options import (
    SPEED,
    WRITING,
    Force,
    FormatOption,
    Offline,
    Quiet,
    RbeFile,
    TextFile,
    Threads,
    TokenFile,
    Verbose,
)
from rbe_cli.cli.output import Format, Output, facts, size, table
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from rbe_cli.nn.gpt2 import Gpt2
    from rbe_cli.progress import Progress
    from rbe_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunResult:
    """The contract's fields; None or empty where not asked for.

    Attributes:
        tokens: of the input; with `--perplexity`, those that were predicted.
        profile: nanoseconds of each layer's parts, and bytes it had allocated at most.
    """

    tokens: int
    loss: float | None
    perplexity: float | None
    top: list[dict[str, Any]] = field(default_factory=list)
    reference_perplexity: float | None = None
    kl_divergence: float | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    profile: list[dict[str, Any]] = field(default_factory=list)


EXAMPLES = """\
rbe run gpt2.rbe "The capital of France is"
rbe run gpt2.rbe -f book.txt --perplexity --stride 512
rbe run gpt2.rbe "Some text" --reference gpt2 --format json
rbe run gpt2.rbe "Some text" --logits logits.npy"""
_MEASURED = "Measurements"  # a heading of the help
NPY_START, NPZ_START = b"\x93NUMPY", b"PK"  # what such files begin with


class Engine(StrEnum):
    """Which kernels compute."""

    fast = "fast"
    reference = "reference"


def run(
    file: RbeFile,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT]",
            show_default=False,
            help="The input; - reads it from stdin. A text that begins with - goes after a -- of "
            "its own.",
        ),
    ] = None,
    text_file: TextFile = None,
    tokens: TokenFile = None,
    top_k: Annotated[
        int,
        typer.Option(
            parser=whole(0),
            metavar="K",
            rich_help_panel=_MEASURED,
            help="Show the K likeliest next tokens.",
        ),
    ] = 10,
    perplexity: Annotated[
        bool,
        typer.Option(
            "--perplexity",
            rich_help_panel=_MEASURED,
            help="Measure the perplexity over the whole input, however long it is. The last "
            "line's end is then part of the text.",
        ),
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(
            parser=whole(2),
            metavar="N",
            rich_help_panel=_MEASURED,
            help="With --perplexity, cut the input into windows of N tokens. The default is the "
            "model's context.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            parser=whole(1),
            metavar="N",
            rich_help_panel=_MEASURED,
            help="With --perplexity, begin a window every N tokens. The default is the length of "
            "a window.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            rich_help_panel=_MEASURED,
            help="Compare with this float32 checkpoint: KL divergence, perplexity, and the error "
            "of each layer's output.",
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            rich_help_panel=_MEASURED,
            help="Measure the time and the memory of each layer's parts.",
        ),
    ] = False,
    logits: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.npy", rich_help_panel=WRITING, help="Write the logits to this file."
        ),
    ] = None,
    hidden: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.npz",
            rich_help_panel=WRITING,
            help="Write the output of each block to this file.",
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            metavar="fast|reference",
            rich_help_panel=SPEED,
            help="Compute with compiled kernels (fast) or with plain numpy (reference).",
        ),
    ] = Engine.fast,
    force: Force = False,
    threads: Threads = None,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run text through a compressed model once, or measure its perplexity."""
    from rbe_cli.container.publish import check_kind, check_output
    from rbe_cli.engine.resident import load_model
    from rbe_cli.engine.warm_up import warm_up
    from rbe_cli.kernels.table import load_kernels

    out = Output(format, quiet, verbose)
    if perplexity and (logits or hidden):
        raise UsageError("--logits and --hidden belong to one forward pass, not to --perplexity")
    if perplexity and profile:
        raise UsageError("--profile belongs to one forward pass, not to --perplexity")
    if not perplexity and (context or stride):
        raise UsageError("--context and --stride belong to --perplexity")
    if logits and logits == hidden:
        raise UsageError("--logits and --hidden name the same file")
    for path, start in ((logits, NPY_START), (hidden, NPZ_START)):
        if path is not None:
            check_output(path, force=force)
            check_kind(path, start)
    with open_rbe(file, offline, out) as container, out.progress() as progress:
        tokenizer = load_tokenizer(container)
        vocab_size = container.config.vocab_size
        prompts = read_prompts(text, text_file, tokens, tokenizer, vocab_size, whole=perplexity)
        sequences = [prompt.tokens for prompt in prompts]
        # A text's windows go to one thread each; a single pass shares its threads.
        kernels = load_kernels(engine.value, 1 if perplexity else threads)
        model = load_model(container, kernels, progress)
        warm_up(model, progress)
        original = _open_reference(reference, model, offline, out, progress) if reference else None
        if perplexity:
            found = _evaluate(model, sequences, original, context, stride, threads, progress)
        else:
            if len(sequences) != 1:
                raise UsageError("one forward pass takes one sequence: use --perplexity for more")
            found = _forward(model, sequences[0], tokenizer, top_k, logits, hidden, force)
            if profile:
                found = replace(found, profile=_profile(model, sequences[0]))
            if original is not None and sequences[0].size > 1:
                compared = _evaluate(model, sequences, original, None, None, threads, progress)
                found = replace(
                    found,
                    reference_perplexity=compared.reference_perplexity,
                    kl_divergence=compared.kl_divergence,
                    layers=compared.layers,
                )
    out.result(found, lambda console: _show(console, found))


def _open_reference(
    source: str, model: "Gpt2", offline: bool, out: Output, progress: "Progress"
) -> "Gpt2":
    from rbe_cli.nn.gpt2 import Gpt2
    from rbe_cli.tasks.opening import open_source

    checkpoint = open_source(source, offline=offline, progress=progress)
    for note in checkpoint.notes:
        out.note(note)
    config, ours = checkpoint.config, model.config
    if (config.vocab_size, config.n_layer, config.n_embd, config.n_positions) != (
        ours.vocab_size,
        ours.n_layer,
        ours.n_embd,
        ours.n_positions,
    ):
        raise UsageError(f"--reference {source} has another shape than the compressed model")
    return Gpt2.from_checkpoint(config, checkpoint.tensors, model.kernels)


def _evaluate(
    model: "Gpt2",
    sequences: "list[NDArray[np.int64]]",
    reference: "Gpt2 | None",
    context: int | None,
    stride: int | None,
    threads: int | None,
    progress: "Progress",
) -> RunResult:
    from rbe_cli.tasks.evaluate import evaluate, sliding_windows
    from rbe_cli.tasks.workers import workers

    limit = model.config.n_positions
    length = context or limit
    if length > limit:
        raise UsageError(f"--context {length} is longer than the model's context of {limit}")
    if stride and stride > length:
        raise UsageError(f"--stride {stride} is longer than the context of {length} tokens")
    windows = sliding_windows(sequences, length, stride or length)
    if not windows:
        raise UsageError("perplexity needs at least two tokens")
    with workers(threads) as pool:
        result = evaluate(model, windows, pool, reference, progress)
    return RunResult(
        tokens=result.predictions,
        loss=result.loss,
        perplexity=result.perplexity,
        reference_perplexity=result.reference_perplexity,
        kl_divergence=result.kl_divergence,
        layers=[
            {"layer": layer, "relative_error": error}
            for layer, error in enumerate(result.layer_errors)
        ],
    )


def _forward(
    model: "Gpt2",
    tokens: "NDArray[np.int64]",
    tokenizer: "Tokenizer | None",
    top_k: int,
    logits: Path | None,
    hidden: Path | None,
    force: bool,
) -> RunResult:
    import numpy as np

    from rbe_cli.container.publish import new_file
    from rbe_cli.tasks.evaluate import perplexity
    from rbe_cli.tasks.forward import forward

    result = forward(model, tokens, keep_hidden=hidden is not None)
    if logits is not None:
        with new_file(logits, force=force) as target:
            _write_npy(target, result.logits)
    if hidden is not None:
        with new_file(hidden, force=force) as target:
            np.savez(target, allow_pickle=False, **result.hidden)
    loss = result.loss
    context = tokens[-32:].tolist()  # enough to tell whether a space precedes the next token
    return RunResult(
        tokens=tokens.size,
        loss=loss,
        perplexity=None if loss is None else perplexity(loss),
        top=[
            {
                "token": token,
                "text": tokenizer.decode_after(context, [token]) if tokenizer else None,
                "probability": probability,
            }
            for token, probability in result.likeliest(top_k)
        ],
    )


def _profile(model: "Gpt2", tokens: "NDArray[np.int64]") -> list[dict[str, Any]]:
    from rbe_cli.tasks.forward import profiled

    return [found.record() for found in profiled(model, tokens)]


def _write_npy(target: BinaryIO, array: "NDArray[np.float32]") -> None:
    """As `np.save`, which fills C's buffers and does not notice if the disk is full then."""
    from numpy.lib import format as npy

    npy.write_array_header_1_0(target, npy.header_data_from_array_1_0(array))
    target.write(array.tobytes())


def _show(console: "Console", found: RunResult) -> None:
    pairs = [("tokens", f"{found.tokens:,}")]
    if found.loss is not None:
        pairs.append(("loss", f"{found.loss:.4f} nats a token"))
        pairs.append(("perplexity", f"{found.perplexity:.3f}"))
    if found.kl_divergence is not None:
        pairs.append(("original's perplexity", f"{found.reference_perplexity:.3f}"))
        pairs.append(("KL divergence", f"{found.kl_divergence:.6f} nats a token"))
    console.print(facts(pairs))
    if found.top:
        rows = [
            (str(entry["token"]), repr(entry["text"] or ""), f"{entry['probability']:.4f}")
            for entry in found.top
        ]
        console.print(table("", ("next token", "text", "probability"), rows))
    if found.layers:
        errors = [(str(e["layer"]), f"{e['relative_error']:.5f}") for e in found.layers]
        console.print(table("", ("layer", "relative error"), errors))
    if found.profile:
        columns = ("layer", "ln 1", "attention", "ln 2", "feed-forward", "residual", "total")
        console.print(table("", (*columns, "memory"), [_profile_row(own) for own in found.profile]))


def _profile_row(own: dict[str, int]) -> tuple[str, ...]:
    layer, *times, peak = own.values()
    return str(layer), *(f"{1e-6 * time:.3f} ms" for time in times), size(peak)
