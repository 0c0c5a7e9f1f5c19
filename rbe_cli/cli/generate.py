"""`rbe generate`: text from a `.rbe` file, as it is written."""

import secrets
from typing import TYPE_CHECKING, Any

import typer

from rbe_cli.cli import generate_options as options
from rbe_cli.cli.faults import flags_of, with_flags
from rbe_cli.cli.inputs import Prompt, open_rbe, read_prompts, stdin_lines, unescape
from rbe_cli.cli.options import (
    Activations,
    FormatOption,
    KvType,
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
from rbe_cli.errors import Terminated, UsageError

if TYPE_CHECKING:
    from rbe_cli.text.generation import GenerationSession, GenerationStep
    from rbe_cli.text.generation_options import GenerationOptions
    from rbe_cli.text.recording import GenerationResult, RecordedGeneration
    from rbe_cli.text.tokenizer import Tokenizer


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
    on_overflow: options.OnOverflow = options.Overflow.stop,
    kv_type: options.KvTypeOption = KvType.fp16,
    activations: options.ActivationsOption = Activations.auto,
    max_memory: options.MaxMemory = None,
    lookup: options.Lookup = True,
    threads: Threads = None,
    logprobs: options.Logprobs = None,
    no_stream: options.NoStream = False,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Continue a prompt with a compressed model."""
    from rbe_cli.engine.load import MemoryLimit, load_model
    from rbe_cli.engine.paged_cache import cache_bytes
    from rbe_cli.engine.session import Session
    from rbe_cli.runtime.thread_team import get_team
    from rbe_cli.text.generation_options import GenerationOptions
    from rbe_cli.text.stored_tokenizer import load_tokenizer

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
        seed=secrets.randbits(32) if seed is None else seed,
        greedy=greedy,
        on_overflow=on_overflow.value,
        lookup=lookup,
        logprobs=logprobs,
    )
    if logprobs is not None and format not in (Format.json, Format.jsonl):
        raise UsageError("--logprobs needs --format json or --format jsonl")
    if interactive and any(given is not None for given in (prompt, text_file, tokens)):
        raise UsageError("--interactive reads its prompts from stdin: give no other input")
    with open_rbe(file, offline, out) as container:
        tokenizer = load_tokenizer(container)
        if interactive and tokenizer is None:
            missing = container.tokenizer_facts.missing
            raise UsageError(f"--interactive needs a tokenizer, and the model has none ({missing})")
        prompts = []
        if not interactive:
            prompts = read_prompts(
                prompt,
                text_file,
                tokens,
                tokenizer,
                container.config.vocab_size,
                missing=container.tokenizer_facts.missing,
            )
        rows = batch * (1 if interactive else len(prompts))
        with out.progress() as progress:
            team, config = get_team(threads), container.config
            limit = None
            if max_memory is not None:
                longest = max((len(own.tokens) for own in prompts), default=config.n_positions)
                reserved = cache_bytes(config, rows, kv_type.value, longest + max_tokens)
                limit = MemoryLimit(max_memory, reserved)
            model = load_model(container, team.threads, progress, limit)
            session = Session(model, 1, kv_type.value, activations.value, team, progress)
    if session.coded_layers:
        out.note(f"{session.coded_layers} of {config.n_layer} layers are decoded for every token")
    ends = () if ignore_eos else config.eos_token_ids
    writer = _Writer(session, tokenizer, choices, out, not no_stream, ends)
    if interactive and tokenizer is not None:
        _converse(writer, tokenizer, out, batch, flags_of(context.command))
    else:
        writer.write(prompts * batch)


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


class _Writer:
    """Generates for some prompts and prints in the format that was asked for."""

    def __init__(
        self,
        session: "GenerationSession",
        tokenizer: "Tokenizer | None",
        options: "GenerationOptions",
        out: Output,
        stream: bool,
        eos_token_ids: tuple[int, ...],
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._options = options
        self._out = out
        self._stream = stream
        self._eos_token_ids = eos_token_ids

    def write(self, prompts: list[Prompt]) -> None:
        from rbe_cli.text.recording import RecordedGeneration

        generation = RecordedGeneration(
            self._session,
            [prompt.tokens for prompt in prompts],
            self._options,
            self._tokenizer,
            self._eos_token_ids,
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
            self._out.write("".join(f"{self._written(row)}\n" for row in generation.results))

    def _write_text(self, prompts: list[Prompt], generation: "RecordedGeneration") -> None:
        """The text for people: one row as it is written, several one after the other."""
        stream = self._stream and len(prompts) == 1
        if stream:
            self._out.write(prompts[0].text or "")
        for step in generation:
            if stream:
                self._out.write(step.text if self._tokenizer else f"{step.token} ")
        for number, (prompt, row) in enumerate(zip(prompts, generation.results, strict=True)):
            if len(prompts) > 1:
                self._out.write(f"[{number + 1}] ")
            if not stream:
                self._out.write((prompt.text or "") + self._written(row))
            self._out.write("\n")
        self._out.note(_timing(generation, self._options.seed))

    def _written(self, row: "GenerationResult") -> str:
        """What a row has generated: text, or ids where there is no tokenizer."""
        return row.text if self._tokenizer else " ".join(map(str, row.tokens))

    def _summaries(
        self, prompts: list[Prompt], generation: "RecordedGeneration"
    ) -> list[dict[str, Any]]:
        from rbe_cli.jobs.peak_memory import peak_rss_bytes

        stats = generation.stats
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
    """The fields of a line of jsonl."""
    record = {
        "row": step.row,
        "token": step.token,
        "text": step.text,
        "finish_reason": step.finish_reason,
    }
    return record if step.logprobs is None else record | {"logprobs": step.logprobs}


def _converse(
    writer: _Writer, tokenizer: "Tokenizer", out: Output, batch: int, flags: dict[str, str]
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
            writer.write([Prompt(text, tokenizer.encode(text))] * batch)
        except UsageError as error:  # the line is too long, say
            out.error(with_flags(error, flags))
        except Terminated:
            raise
        except KeyboardInterrupt:
            if out.format is Format.human:
                out.write("\n")


def _timing(generation: "RecordedGeneration", seed: int) -> str:
    stats = generation.stats
    count = sum(len(row.tokens) for row in generation.results)
    parts = [f"{count} tokens"]
    if stats.decode_tokens_per_second:
        parts.append(f"{stats.decode_tokens_per_second:.0f} tokens/s")
    if stats.time_to_first_token_seconds:
        parts.append(f"first after {stats.time_to_first_token_seconds * 1000:.0f} ms")
    reasons = sorted({str(row.finish_reason) for row in generation.results})
    return ", ".join([*parts, f"ended by {' and '.join(reasons)}", f"seed {seed}"])
