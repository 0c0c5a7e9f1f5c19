"""`rbe generate`: text from a `.rbe` file, as it is written."""

import os
from typing import TYPE_CHECKING, Any

import typer

from rbe_cli.backends import check_backend
from rbe_cli.choices import ActivationBits, Backend, KvType
from rbe_cli.cli import generate_options as options
from rbe_cli.cli.faults import flags_of, with_flags
from rbe_cli.cli.inputs import GivenInput, Prompt, open_rbe, read_prompts, stdin_lines, unescape
from rbe_cli.cli.options import (
    BackendOption,
    FormatOption,
    Offline,
    Quiet,
    RbeFile,
    Seed,
    TextFile,
    Threads,
    TokenFile,
    Verbose,
)
from rbe_cli.cli.output import Format, Output
from rbe_cli.errors import UsageError
from rbe_cli.runtime.collector import paused_collector
from rbe_cli.runtime.ending_signals import SIGNALS

if TYPE_CHECKING:
    from rbe_cli.api.generating import Generation
    from rbe_cli.api.language_model import Model
    from rbe_cli.text.generation import GenerationStep
    from rbe_cli.text.generation_options import GenerationOptions
    from rbe_cli.text.recording import GenerationResult


EXAMPLES = """\
rbe generate gpt2.rbe "It was a dark night, and"
rbe generate gpt2.rbe "Once upon a time" --temperature 0.7 --seed 1 --stop "\\n"
rbe generate gpt2.rbe -f prompt.txt --max-tokens 500 --on-overflow shift
echo "The answer is" | rbe generate gpt2.rbe - --greedy --format json"""


def generate(
    context: typer.Context,
    file: RbeFile,
    prompt: options.Prompt = None,
    text_file: TextFile = None,
    tokens: TokenFile = None,
    interactive: options.Interactive = False,
    batch: options.Batch = 1,
    temperature: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    repetition_window: options.RepetitionWindow = 64,
    seed: Seed = None,
    greedy: options.Greedy = False,
    max_tokens: options.MaxTokens = 128,
    stop: options.Stop = None,
    ignore_eos: options.IgnoreEos = False,
    on_overflow: options.OnOverflow = "stop",
    kv_type: options.KvTypeOption = "fp16",
    activations: options.ActivationsOption = "auto",
    max_memory: options.MaxMemory = None,
    lookup: options.Lookup = True,
    backend: BackendOption = "cpu",
    threads: Threads = None,
    logprobs: options.Logprobs = None,
    no_stream: options.NoStream = False,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Continue a prompt with a compressed model."""
    from rbe_cli.text.generation_options import GenerationOptions

    out = Output(format, quiet, verbose)
    if greedy:
        _refuse_sampling(context, temperature)
    choices = GenerationOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        repetition_window=repetition_window,
        stop=tuple(unescape(text) for text in stop or ()),
        seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
        greedy=greedy,
        on_overflow=on_overflow,
        lookup=lookup,
        logprobs=logprobs,
    )
    if logprobs is not None and format not in (Format.json, Format.jsonl):
        raise UsageError("--logprobs needs --format json or --format jsonl")
    check_backend(backend, max_memory, activations, kv_type)
    given = GivenInput(prompt, text_file, tokens)
    if interactive and given != GivenInput():
        raise UsageError("--interactive reads its prompts from stdin: give no other input")
    model, prompts = _load(
        file, None if interactive else given, choices, batch, out, offline=offline, backend=backend,
        threads=threads, max_memory=max_memory, kv_type=kv_type, activations=activations,
    )  # fmt: skip
    writer = TextWriter(model, choices, out, stream=not no_stream, ignore_eos=ignore_eos)
    with model:
        if interactive:
            _converse(writer, model, out, batch, flags_of(context.command))
        else:
            writer.write(prompts * batch)


def _load(
    file: str,
    given: GivenInput | None,
    choices: "GenerationOptions",
    batch: int,
    out: Output,
    *,
    offline: bool,
    threads: int | None,
    max_memory: int | None,
    kv_type: KvType,
    activations: ActivationBits,
    backend: Backend,
) -> "tuple[Model, list[Prompt]]":
    """Load the model, with room for the prompts that were given; None waits for those of stdin."""
    with paused_collector():
        from rbe_cli.api.language_model import Model
        from rbe_cli.text.stored_tokenizer import load_tokenizer

        container = open_rbe(file, offline, out)
        tokenizer = load_tokenizer(container)
    config, missing = container.config, container.tokenizer_facts.missing
    prompts: list[Prompt] = []
    if given is not None:
        prompts = read_prompts(given, tokenizer, config.vocab_size, missing=missing)
    elif tokenizer is None:
        raise UsageError(f"--interactive needs a tokenizer, and the model has none ({missing})")
    rows = batch * max(len(prompts), 1)
    longest = max((len(own.tokens) for own in prompts), default=config.n_positions)
    with out.progress() as progress:
        model = Model(
            container, tokenizer, max_memory=max_memory, rows=rows,
            row_tokens=longest + choices.max_tokens, threads=threads, kv_type=kv_type,
            activations=activations, backend=backend, progress=progress,
        )  # fmt: skip
        model.prepare(progress)
    if model.coded_layers:
        out.note(f"{model.coded_layers} of {config.n_layer} layers are decoded for every token")
    return model, prompts


def _refuse_sampling(context: typer.Context, temperature: float) -> None:
    """Refuse options beside `--greedy` that ask for a choice among several tokens.

    A seed is accepted, since a script may give one to every command.

    Raises:
        UsageError: such an option was given.
    """
    for name in ("temperature", "top_k", "top_p", "min_p"):
        source = context.get_parameter_source(name)
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and (name != "temperature" or temperature != 0):
            raise UsageError(
                f"--greedy and --{name.replace('_', '-')} exclude each other: greedy text always "
                "takes the likeliest token"
            )


class TextWriter:
    """Generates for some prompts and prints in the format that was asked for."""

    def __init__(
        self,
        model: "Model",
        options: "GenerationOptions",
        out: Output,
        *,
        stream: bool,
        ignore_eos: bool,
    ) -> None:
        self._model = model
        self._options = options
        self._out = out
        self._stream = stream
        self._ignore_eos = ignore_eos

    def write(self, prompts: list[Prompt]) -> None:
        """Print the continuation of each prompt."""
        generation = self._model.stream_all(
            [prompt.tokens for prompt in prompts], self._options, ignore_eos=self._ignore_eos
        )
        if self._out.format is Format.human:
            self._write_text(prompts, generation)
            return
        for step in generation:
            if self._out.format is Format.jsonl:
                self._out.record(_step_record(step))
        summaries = self._summaries(prompts, generation)
        if self._out.format is Format.jsonl:
            for summary in summaries:
                self._out.record(summary)
        elif self._out.format is Format.json:
            self._out.result(summaries[0] if len(summaries) == 1 else summaries, lambda _: None)
        else:
            self._out.write_text("".join(f"{self._written(row)}\n" for row in generation.results))

    def _write_text(self, prompts: list[Prompt], generation: "Generation") -> None:
        """Write the text for people: one row as it is written, several one after the other."""
        stream = self._stream and len(prompts) == 1
        if stream:
            self._out.write_text(prompts[0].text or "")
        for step in generation:
            if stream:
                self._out.write_text(step.text if self._model.tokenizer else f"{step.token} ")
        for number, (prompt, row) in enumerate(zip(prompts, generation.results, strict=True)):
            if len(prompts) > 1:
                self._out.write_text(f"[{number + 1}] ")
            if not stream:
                self._out.write_text((prompt.text or "") + self._written(row))
            self._out.write_text("\n")
        self._out.note(_timing(generation, self._options.seed))

    def _written(self, row: "GenerationResult") -> str:
        """Return what a row has generated: text, or ids where there is no tokenizer."""
        return row.text if self._model.tokenizer else " ".join(map(str, row.tokens))

    def _summaries(self, prompts: list[Prompt], generation: "Generation") -> list[dict[str, Any]]:
        from rbe_cli.jobs.peak_memory import peak_rss_bytes

        stats = generation.statistics
        return [
            {
                "prompt": prompt.text,
                "text": row.text,
                "tokens": row.tokens,
                "finish_reason": row.finish_reason,
                "seed": self._options.seed,
                "prompt_tokens": row.prompt_tokens,
                "generated_tokens": len(row.tokens),
                "prefill_tokens_per_second": stats.prefill_tokens_per_second,
                "decode_tokens_per_second": stats.decode_tokens_per_second,
                "time_to_first_token_seconds": stats.time_to_first_token_seconds,
                "peak_rss_bytes": peak_rss_bytes(),
                **({} if self._options.logprobs is None else {"logprobs": row.logprobs}),
            }
            for prompt, row in zip(prompts, generation.results, strict=True)
        ]


def _step_record(step: "GenerationStep") -> dict[str, Any]:
    """Return the fields of a line of jsonl."""
    record = {
        "row": step.row,
        "token": step.token,
        "text": step.text,
        "finish_reason": step.finish_reason,
    }
    return record if step.logprobs is None else record | {"logprobs": step.logprobs}


def _converse(
    writer: TextWriter, model: "Model", out: Output, batch: int, flags: dict[str, str]
) -> None:
    """Continue each line of stdin until it ends.

    What is wrong with a line is said, and the next line is waited for; so it is after a Ctrl-C
    while a text is written. A Ctrl-C that comes while a line is waited for ends the conversation.
    """
    out.note("GPT-2 continues what you type. Ctrl-C ends a text, Ctrl-D the conversation.")
    for line in stdin_lines():
        text = line.removesuffix("\n")
        if not text:
            continue
        try:
            writer.write([Prompt(text, model.encode(text))] * batch)
        except UsageError as error:  # the line is too long, say
            out.error(with_flags(error, flags))
        except KeyboardInterrupt:
            SIGNALS.listen_again()
            if out.format is Format.human:
                out.write("\n")


def _timing(generation: "Generation", seed: int) -> str:
    stats = generation.statistics
    count = sum(len(row.tokens) for row in generation.results)
    parts = [f"{count} tokens"]
    if stats.decode_tokens_per_second:
        parts.append(f"{stats.decode_tokens_per_second:.0f} tokens/s")
    if stats.time_to_first_token_seconds:
        parts.append(f"first after {stats.time_to_first_token_seconds * 1000:.0f} ms")
    reasons = sorted({str(row.finish_reason) for row in generation.results})
    return ", ".join([*parts, f"ended by {' and '.join(reasons)}", f"seed {seed}"])
