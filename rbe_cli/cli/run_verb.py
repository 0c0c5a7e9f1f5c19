"""`rbe run`: one forward pass, or a whole text's perplexity."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from rbe_cli.cli.inputs import open_rbe, read_prompts
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
from rbe_cli.cli.output import Format, Output
from rbe_cli.cli.run_result import (
    RunResult,
    RunWindow,
    comparison_fields,
    loss_fields,
    show,
)
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rbe_cli.evaluation.forward_pass import ForwardPass
    from rbe_cli.model.config import Gpt2Config
    from rbe_cli.nn.gpt2 import Gpt2
    from rbe_cli.progress import Progress
    from rbe_cli.text.tokenizer import Tokenizer


EXAMPLES = """\
rbe run gpt2.rbe "The capital of France is"
rbe run gpt2.rbe -f book.txt --perplexity --stride 512
rbe run gpt2.rbe "Some text" --reference gpt2 --format json
rbe run gpt2.rbe "Some text" --logits logits.npy"""
_MEASURED = "Measurements"  # a heading of the help
NPY_START, NPZ_START = b"\x93NUMPY", b"PK"  # what such files begin with
OF_ONE_PASS = (
    *("tokens", "loss", "loss_error", "perplexity", "perplexity_error"),
    *("top", "logprobs", "profile"),
)


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
    logprobs: Annotated[
        bool,
        typer.Option(
            "--logprobs",
            rich_help_panel=_MEASURED,
            help="Show the log-probability of each token of the input, and its rank among all "
            "tokens.",
        ),
    ] = False,
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
            help="Compare with this checkpoint, in float32, or with this .rbe file: KL divergence, "
            "perplexity, and the error of each layer's output.",
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
    from rbe_cli.container.atomic_file import check_kind, check_output
    from rbe_cli.engine.load import load_model
    from rbe_cli.engine.warm_up import warm_up
    from rbe_cli.kernels.kernel_table import load_kernels
    from rbe_cli.nn.gpt2 import Gpt2
    from rbe_cli.text.stored_tokenizer import load_tokenizer

    out = Output(format, quiet, verbose)
    if perplexity and (logits or hidden):
        raise UsageError("--logits and --hidden belong to one forward pass, not to --perplexity")
    if perplexity and logprobs:
        raise UsageError("--logprobs belongs to one forward pass, not to --perplexity")
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
        prompts = read_prompts(
            text,
            text_file,
            tokens,
            tokenizer,
            container.config.vocab_size,
            whole=perplexity,
            missing=container.tokenizer_facts.missing,
        )
        sequences = [prompt.tokens for prompt in prompts]
        # A text's windows go to one thread each; a single pass shares its threads.
        kernels = load_kernels(engine.value, 1 if perplexity else threads)
        loaded = load_model(container, kernels.threads, progress)
        model = Gpt2(loaded.config, loaded.weights, kernels)
        warm_up(model, progress)
        original = _open_reference(reference, model, offline, out, progress) if reference else None
        if perplexity:
            found = _measure(model, sequences, original, context, stride, threads, progress)
        else:
            if len(sequences) != 1:
                raise UsageError("one forward pass takes one sequence: use --perplexity for more")
            found = _forward(model, sequences[0], tokenizer, top_k, logprobs, logits, hidden, force)
            if profile:
                found = replace(found, profile=_profile(model, sequences[0]))
            if original is not None and sequences[0].size > 1:
                whole = sequences[0].size
                compared = _measure(model, sequences, original, whole, whole, threads, progress)
                # Of the model's own numbers those of the single pass are kept: they belong to
                # the logits that --logits writes.
                own = {name: getattr(found, name) for name in OF_ONE_PASS}
                found = replace(compared, **own)
    out.result(found, lambda console: show(console, found))


def _open_reference(
    source: str, model: "Gpt2", offline: bool, out: Output, progress: "Progress"
) -> "Gpt2":
    """The model to compare with, of the same shape; a `.rbe` file stays compressed in memory."""
    from rbe_cli.checkpoint.source import open_checkpoint
    from rbe_cli.container.find_file import find_rbe, names_rbe
    from rbe_cli.container.reader import Container
    from rbe_cli.engine.load import load_model
    from rbe_cli.nn.gpt2 import Gpt2

    if names_rbe(source):
        path = find_rbe(source, offline=offline, progress=progress)
        with Container.open(path) as container:
            _check_shape(source, container.config, model.config)
            loaded = load_model(container, model.kernels.threads, progress)
        return Gpt2(loaded.config, loaded.weights, model.kernels)
    checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    for note in checkpoint.notes:
        out.note(note)
    _check_shape(source, checkpoint.config, model.config)
    return Gpt2.from_checkpoint(checkpoint.config, checkpoint.tensors, model.kernels)


def _check_shape(source: str, config: "Gpt2Config", ours: "Gpt2Config") -> None:
    for key in ("vocab_size", "n_layer", "n_embd", "n_positions"):
        theirs, own = getattr(config, key), getattr(ours, key)
        if theirs != own:
            raise UsageError(
                f"--reference {source} has another shape than the compressed model: "
                f"its {key} is {theirs}, not {own}"
            )


def _measure(
    model: "Gpt2",
    sequences: "list[NDArray[np.int64]]",
    reference: "Gpt2 | None",
    context: int | None,
    stride: int | None,
    threads: int | None,
    progress: "Progress",
) -> RunResult:
    """Loss over all windows of the input, and what the reference gives if there is one."""
    from rbe_cli.evaluation.batching import sliding_windows
    from rbe_cli.evaluation.evaluate import evaluate
    from rbe_cli.evaluation.means import unit_of
    from rbe_cli.jobs.workers import workers

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
        found = evaluate(model, windows, pool, reference, progress)
    return RunResult(
        tokens=found.predictions,
        window=RunWindow(length, stride or length, found.windows, unit_of(found.windows)),
        **loss_fields(found.loss),
        **(comparison_fields(found.comparison) if found.comparison else {}),
    )


def _forward(
    model: "Gpt2",
    tokens: "NDArray[np.int64]",
    tokenizer: "Tokenizer | None",
    top_k: int,
    logprobs: bool,
    logits: Path | None,
    hidden: Path | None,
    force: bool,
) -> RunResult:
    """One pass over `[n]` tokens; its arrays go to the files that were named."""
    import numpy as np

    from rbe_cli.container.atomic_file import new_file
    from rbe_cli.evaluation.forward_pass import forward

    result = forward(model, tokens, keep_hidden=hidden is not None)
    if logits is not None:
        with new_file(logits, force=force) as target:
            _write_npy(target, result.logits)
    if hidden is not None:
        with new_file(hidden, force=force) as target:
            np.savez(target, allow_pickle=False, **result.hidden)
    loss, length = result.loss, tokens.size
    return RunResult(
        tokens=length,
        window=RunWindow(length, length, 1, "token") if loss else None,
        top=[
            {"token": token, "text": _text(tokenizer, token), "probability": probability}
            for token, probability in result.likeliest(top_k)
        ],
        logprobs=_logprobs(result, tokenizer) if logprobs else [],
        **(loss_fields(loss) if loss else {}),
    )


def _logprobs(result: "ForwardPass", tokenizer: "Tokenizer | None") -> list[dict[str, Any]]:
    """Each token of the input; of the first, which nothing predicts, no numbers."""
    scored = [(None, None), *zip(result.logprobs().tolist(), result.ranks().tolist(), strict=True)]
    return [
        {"token": token, "text": _text(tokenizer, token), "logprob": logprob, "rank": rank}
        for token, (logprob, rank) in zip(result.tokens.tolist(), scored, strict=True)
    ]


def _text(tokenizer: "Tokenizer | None", token: int) -> str | None:
    return tokenizer.token_text(token) if tokenizer else None


def _profile(model: "Gpt2", tokens: "NDArray[np.int64]") -> list[dict[str, Any]]:
    from rbe_cli.evaluation.forward_pass import profiled

    return [found.record() for found in profiled(model, tokens)]


def _write_npy(target: BinaryIO, array: "NDArray[np.float32]") -> None:
    """As `np.save`, which fills C's buffers and does not notice if the disk is full then."""
    from numpy.lib import format as npy

    npy.write_array_header_1_0(target, npy.header_data_from_array_1_0(array))
    target.write(array.tobytes())
