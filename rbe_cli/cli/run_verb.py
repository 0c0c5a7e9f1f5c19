"""`rbe run`: one forward pass, or a whole text's perplexity."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rbe_cli.backends import check_backend
from rbe_cli.choices import Backend, Engine
from rbe_cli.cli import run_options as options
from rbe_cli.cli.inputs import GivenInput, open_rbe, read_prompts
from rbe_cli.cli.options import (
    BackendOption,
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
from rbe_cli.runtime.collector import paused_collector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rbe_cli.api.language_model import Model
    from rbe_cli.container.reader import Container
    from rbe_cli.evaluation.forward_pass import ForwardPass
    from rbe_cli.kernels.kernel_table import Kernels
    from rbe_cli.model.config import Gpt2Config
    from rbe_cli.nn.gpt2 import Gpt2
    from rbe_cli.progress import Progress
    from rbe_cli.text.tokenizer import Tokenizer


EXAMPLES = """\
rbe run gpt2.rbe "The capital of France is"
rbe run gpt2.rbe -f book.txt --perplexity --stride 512
rbe run gpt2.rbe "Some text" --reference gpt2 --format json
rbe run gpt2.rbe "Some text" --logits logits.npy"""
NPY_START, NPZ_START = b"\x93NUMPY", b"PK"  # what such files begin with
OF_ONE_PASS = (
    *("tokens", "loss", "loss_error", "perplexity", "perplexity_error"),
    *("top", "logprobs", "profile"),
)


def run(
    file: RbeFile,
    text: options.Text = None,
    text_file: TextFile = None,
    tokens: TokenFile = None,
    top_k: options.TopK = 10,
    logprobs: options.Logprobs = False,
    perplexity: options.Perplexity = False,
    context: options.Context = None,
    stride: options.Stride = None,
    reference: options.Reference = None,
    profile: options.Profile = False,
    logits: options.Logits = None,
    hidden: options.Hidden = None,
    engine: options.EngineOption = "fast",
    backend: BackendOption = "cpu",
    force: Force = False,
    threads: Threads = None,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run text through a compressed model once, or measure its perplexity."""
    out = Output(format, quiet, verbose)
    wanted = Wanted(
        top_k=top_k, logprobs=logprobs, perplexity=perplexity, context=context, stride=stride,
        profile=profile, logits=logits, hidden=hidden, force=force,
    )  # fmt: skip
    wanted.check()
    if backend == "cuda":
        wanted.check_for_gpu(engine)
    container = open_rbe(file, offline, out)
    with out.progress() as progress:
        given = GivenInput(text, text_file, tokens)
        model, sequences = _load(container, given, wanted, engine, backend, threads, progress)
        with model:
            original = None
            if reference:
                from rbe_cli.kernels.kernel_table import load_kernels

                kernels = load_kernels(engine, 1 if perplexity else threads)
                original = _open_reference(reference, model, kernels, offline, out, progress)
            if perplexity:
                found = _measure(model, sequences, original, context, stride, progress)
            else:
                found = _single_pass(model, sequences, original, wanted, progress)
    out.result(found, lambda console: show(console, found))


@dataclass(frozen=True)
class Wanted:
    """What is to be measured and written; see the options of these names."""

    top_k: int
    logprobs: bool
    perplexity: bool
    context: int | None
    stride: int | None
    profile: bool
    logits: Path | None
    hidden: Path | None
    force: bool

    def check(self) -> None:
        """Refuse options that contradict each other, and files that must not be written.

        Raises:
            UsageError, OutputError: naming the option or the file.
        """
        from rbe_cli.container.atomic_file import check_kind, check_output

        alone = "to one forward pass, not to --perplexity"
        if self.perplexity and (self.logits or self.hidden):
            raise UsageError(f"--logits and --hidden belong {alone}")
        if self.perplexity and self.logprobs:
            raise UsageError(f"--logprobs belongs {alone}")
        if self.perplexity and self.profile:
            raise UsageError(f"--profile belongs {alone}")
        if not self.perplexity and (self.context or self.stride):
            raise UsageError("--context and --stride belong to --perplexity")
        if self.logits and self.logits == self.hidden:
            raise UsageError("--logits and --hidden name the same file")
        for path, start in ((self.logits, NPY_START), (self.hidden, NPZ_START)):
            if path is not None:
                check_output(path, force=self.force)
                check_kind(path, start)

    def check_for_gpu(self, engine: Engine) -> None:
        """Refuse what the GPU does not compute, and a GPU that is not there.

        Raises:
            UsageError: naming the option, or what is missing.
        """
        if self.profile:
            raise UsageError("--profile does not work with --backend cuda")
        if engine == "reference":
            raise UsageError("--engine reference does not work with --backend cuda")
        check_backend("cuda")


def _load(
    container: "Container",
    given: GivenInput,
    wanted: Wanted,
    engine: Engine,
    backend: Backend,
    threads: int | None,
    progress: "Progress",
) -> "tuple[Model, list[NDArray[np.int64]]]":
    """Load the model, and read the sequences of token ids that it is to run on."""
    with paused_collector():
        from rbe_cli.api.language_model import Model
        from rbe_cli.engine.warm_up import warm_up
        from rbe_cli.text.stored_tokenizer import load_tokenizer

        tokenizer = load_tokenizer(container)
    prompts = read_prompts(
        given, tokenizer, container.config.vocab_size, whole=wanted.perplexity,
        missing=container.tokenizer_facts.missing,
    )  # fmt: skip
    model = Model(
        container, tokenizer, threads=threads, engine=engine, backend=backend, progress=progress
    )
    if not wanted.perplexity and backend == "cpu":
        warm_up(model.network.kernels, progress)
    return model, [prompt.tokens for prompt in prompts]


def _open_reference(
    source: str,
    model: "Model",
    kernels: "Kernels",
    offline: bool,
    out: Output,
    progress: "Progress",
) -> "Gpt2":
    """Open the model to compare with, of the same shape; a `.rbe` file stays compressed.

    Raises:
        UsageError: it has another shape.
    """
    from rbe_cli.checkpoint.source import open_checkpoint
    from rbe_cli.container.find_file import find_rbe, names_rbe
    from rbe_cli.container.reader import Container
    from rbe_cli.engine.load import load_model
    from rbe_cli.nn.gpt2 import Gpt2

    if names_rbe(source):
        path = find_rbe(source, offline=offline, progress=progress)
        with Container.open(path) as container:
            _check_shape(source, container.config, model.config)
            loaded = load_model(container, kernels.threads, progress)
        return Gpt2(loaded.config, loaded.weights, kernels)
    checkpoint = open_checkpoint(source, offline=offline, progress=progress)
    for note in checkpoint.notes:
        out.note(note)
    _check_shape(source, checkpoint.config, model.config)
    return Gpt2.from_checkpoint(checkpoint.config, checkpoint.tensors, kernels)


def _check_shape(source: str, config: "Gpt2Config", ours: "Gpt2Config") -> None:
    for key in ("vocab_size", "n_layer", "n_embd", "n_positions"):
        theirs, own = getattr(config, key), getattr(ours, key)
        if theirs != own:
            raise UsageError(
                f"--reference {source} has another shape than the compressed model: "
                f"its {key} is {theirs}, not {own}"
            )


def _measure(
    model: "Model",
    sequences: "list[NDArray[np.int64]]",
    reference: "Gpt2 | None",
    context: int | None,
    stride: int | None,
    progress: "Progress",
) -> RunResult:
    """Measure the loss over all windows of the input, and compare with a reference, if any."""
    from rbe_cli.evaluation.means import unit_of

    found = model.evaluate(
        sequences, context=context, stride=stride, reference=reference, progress=progress
    )
    length = context or model.config.n_positions
    return RunResult(
        tokens=found.predictions,
        window=RunWindow(length, stride or length, found.windows, unit_of(found.windows)),
        **loss_fields(found.loss),
        **(comparison_fields(found.comparison) if found.comparison else {}),
    )


def _single_pass(
    model: "Model",
    sequences: "list[NDArray[np.int64]]",
    reference: "Gpt2 | None",
    wanted: Wanted,
    progress: "Progress",
) -> RunResult:
    """Return what one pass over one sequence gives, compared with the reference if there is one."""
    if len(sequences) != 1:
        raise UsageError("one forward pass takes one sequence: use --perplexity for more")
    (tokens,) = sequences
    found = _forward(model, tokens, wanted)
    if wanted.profile:
        found = replace(found, profile=_profile(model.network, tokens))
    if reference is None or tokens.size < 2:
        return found
    compared = _measure(model, sequences, reference, tokens.size, tokens.size, progress)
    # Of the model's own numbers those of the single pass are kept: they belong to the logits
    # that --logits writes.
    return replace(compared, **{name: getattr(found, name) for name in OF_ONE_PASS})


def _forward(model: "Model", tokens: "NDArray[np.int64]", wanted: Wanted) -> RunResult:
    """Run one pass over `[n]` tokens; its arrays go to the files that were named."""
    import numpy as np

    from rbe_cli.container.atomic_file import new_file
    from rbe_cli.evaluation.forward_pass import forward

    result = forward(model.passes, tokens, keep_hidden=wanted.hidden is not None)
    if wanted.logits is not None:
        with new_file(wanted.logits, force=wanted.force) as target:
            _write_npy(target, result.logits)
    if wanted.hidden is not None:
        with new_file(wanted.hidden, force=wanted.force) as target:
            np.savez(target, allow_pickle=False, **result.hidden)
    loss, length = result.loss, tokens.size
    return RunResult(
        tokens=length,
        window=RunWindow(length, length, 1, "token") if loss else None,
        top=[
            {"token": token, "text": _text(model.tokenizer, token), "probability": probability}
            for token, probability in result.likeliest(wanted.top_k)
        ],
        logprobs=_logprobs(result, model.tokenizer) if wanted.logprobs else [],
        **(loss_fields(loss) if loss else {}),
    )


def _logprobs(result: "ForwardPass", tokenizer: "Tokenizer | None") -> list[dict[str, Any]]:
    """Return each token of the input; the first, which nothing predicts, has no numbers."""
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
    """Write as `np.save` does, but notice if the disk is full.

    `np.save` fills C's buffers, and does not notice it.
    """
    from numpy.lib import format as npy

    npy.write_array_header_1_0(target, npy.header_data_from_array_1_0(array))
    target.write(array.tobytes())
