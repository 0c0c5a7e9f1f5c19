"""`rbe generate`: its record, seeds, stop strings, batches and inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deadlines import run_python
from record_fields import GENERATE_FIELDS

from rbe_cli.cli.inputs import unescape
from rbe_cli.text.tokenizer import Tokenizer

Rbe = Callable[..., Any]
PROMPT = "The quick brown"


Generate = Callable[..., Any]

# The record


def test_the_record_has_the_documented_fields(generate: Generate, tokenizer_json: bytes) -> None:
    record = generate(PROMPT, "--seed", 3, "--max-tokens", 20)
    tokenizer = Tokenizer(tokenizer_json, 300)
    assert list(record) == GENERATE_FIELDS
    assert record["prompt"] == PROMPT
    assert record["prompt_tokens"] == tokenizer.encode(PROMPT).size
    assert record["text"] == tokenizer.decode(record["tokens"])
    assert record["generated_tokens"] == len(record["tokens"]) == 20
    assert record["finish_reason"] == "length"
    assert record["seed"] == 3
    assert record["prefill_tokens_per_second"] > 0
    assert record["decode_tokens_per_second"] > 0
    assert 0 < record["time_to_first_token_seconds"] < 60
    assert record["peak_rss_bytes"] > 1 << 24


def test_one_token_needs_no_decoding(generate: Generate) -> None:
    record = generate(PROMPT, "--max-tokens", 1)
    assert record["generated_tokens"] == 1
    assert record["decode_tokens_per_second"] is None


# Chance


def test_a_seed_gives_its_text_again(generate: Generate) -> None:
    first = generate(PROMPT, "--seed", 7)
    assert generate(PROMPT, "--seed", 7)["text"] == first["text"]
    assert generate(PROMPT, "--seed", 7, "--threads", 2)["text"] == first["text"]
    assert generate(PROMPT, "--seed", 8)["text"] != first["text"]


def test_the_seed_that_was_drawn_is_told_and_reproduces(
    generate: Generate, rbe: Rbe, rbe_file: Path
) -> None:
    drawn = generate(PROMPT)
    assert generate(PROMPT, "--seed", drawn["seed"])["tokens"] == drawn["tokens"]
    note = rbe("generate", rbe_file, PROMPT).err
    assert " tokens/s, first after " in note
    assert int(note.rpartition("seed ")[2]) >= 0


def test_greedy_needs_no_seed(generate: Generate) -> None:
    first = generate(PROMPT, "--greedy", "--seed", 1)
    for same in (["--greedy"], ["--temperature", "0"], ["--top-k", "1"]):
        assert generate(PROMPT, *same, "--seed", 2)["tokens"] == first["tokens"]


@pytest.mark.parametrize(
    "options",
    [
        ["--temperature", "1.5"],
        ["--top-k", "3"],
        ["--top-p", "0.3"],
        ["--min-p", "0.5"],
        ["--repetition-penalty", "3"],
    ],
)
def test_options_of_sampling_matter(generate: Generate, options: list[str]) -> None:
    assert (
        generate(PROMPT, "--seed", 1, *options)["tokens"] != generate(PROMPT, "--seed", 1)["tokens"]
    )


def test_the_repetition_window_matters(generate: Generate) -> None:
    chosen = [PROMPT, "--greedy", "--repetition-penalty", "5", "--repetition-window"]
    assert generate(*chosen, 40)["tokens"] != generate(*chosen, 2)["tokens"]


# Where it ends


def test_it_stops_before_a_stop_string(generate: Generate) -> None:
    whole = generate(PROMPT, "--seed", 5, "--max-tokens", 30)["text"]
    stop = whole[12:14]
    record = generate(PROMPT, "--seed", 5, "--max-tokens", 30, "--stop", "@never@", "--stop", stop)
    assert record["finish_reason"] == "stop"
    assert record["text"] == whole[: whole.index(stop)]


def test_a_full_context_ends_the_text(generate: Generate) -> None:
    record = generate(PROMPT, "--seed", 1)
    assert record["finish_reason"] == "context"
    # The last token is no longer put into the context.
    assert record["prompt_tokens"] + record["generated_tokens"] == 64 + 1


def test_a_full_context_can_shift(generate: Generate) -> None:
    stopped = generate(PROMPT, "--seed", 1)
    shifted = generate(PROMPT, "--seed", 1, "--on-overflow", "shift")
    assert (shifted["finish_reason"], shifted["generated_tokens"]) == ("length", 128)
    assert shifted["tokens"][: stopped["generated_tokens"]] == stopped["tokens"]


def test_a_prompt_longer_than_the_context_can_shift(
    generate: Generate, rbe: Rbe, rbe_file: Path
) -> None:
    refused = rbe("generate", rbe_file, PROMPT * 20)
    assert refused.code == 2
    assert "but the model's context holds 64" in refused.err
    record = generate(PROMPT * 20, "--on-overflow", "shift", "--max-tokens", 5)
    assert record["prompt_tokens"] > 64
    assert record["generated_tokens"] == 5


# Inputs


def test_a_prompt_from_a_file_or_stdin(
    generate: Generate, tmp_path: Path, type_in: Callable[[bytes], None]
) -> None:
    expected = generate(PROMPT, "--seed", 1)
    (tmp_path / "prompt.txt").write_text(PROMPT)
    type_in(PROMPT.encode())
    for source in (["-f", tmp_path / "prompt.txt"], ["-"]):
        record = generate(*source, "--seed", 1)
        assert (record["prompt"], record["tokens"]) == (PROMPT, expected["tokens"])


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"The\n", "The"),
        (b"The\r\n", "The"),
        (b"The\n\n", "The\n"),
        (b"\nThe ", "\nThe "),
        (b"\xef\xbb\xbfThe\n", "The"),
        (b"The\xef\xbb\xbf", "The\ufeff"),
    ],
)
def test_a_mark_and_the_last_line_s_end_are_not_the_prompt(
    generate: Generate,
    tmp_path: Path,
    type_in: Callable[[bytes], None],
    content: bytes,
    prompt: str,
) -> None:
    (tmp_path / "prompt.txt").write_bytes(content)
    for source in (["-f", tmp_path / "prompt.txt"], ["-"], ["-f", "-"]):
        type_in(content)
        assert generate(*source, "--max-tokens", 1)["prompt"] == prompt


def test_a_typed_prompt_stays_as_it_is_but_for_a_mark(generate: Generate) -> None:
    assert generate("\ufeffThe\n", "--max-tokens", 1)["prompt"] == "The\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"\n", "\n"),
        (r"\n\n", "\n\n"),
        (r"a\tb\r", "a\tb\r"),
        (r"\\n", r"\n"),
        (r"\\\n", "\\\n"),
        ("\\d\\", "\\d\\"),
        ("\n", "\n"),
    ],
)
def test_stop_strings_are_written_with_escapes(typed: str, meant: str) -> None:
    assert unescape(typed) == meant


def test_it_stops_at_a_newline_as_people_type_it(generate: Generate) -> None:
    options = [PROMPT, "--temperature", 5, "--top-k", 0, "--seed"]
    texts = (generate(*options, seed)["text"] for seed in range(200))
    seed, free = next((seed, text) for seed, text in enumerate(texts) if "\n" in text)
    stopped = generate(*options, seed, "--stop", r"\n")
    assert (stopped["text"], stopped["finish_reason"]) == (free.partition("\n")[0], "stop")


def test_a_prompt_of_tokens(generate: Generate, tokenizer_json: bytes, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", Tokenizer(tokenizer_json, 300).encode(PROMPT))
    record = generate("--tokens", tmp_path / "ids.npy", "--seed", 1)
    assert record["prompt"] is None
    assert record["text"] == generate(PROMPT, "--seed", 1)["text"]


def test_every_sequence_of_a_token_file_is_continued(generate: Generate, token_file: Path) -> None:
    records = generate("--tokens", token_file, "--max-tokens", 4)
    assert [record["prompt_tokens"] for record in records] == [3, 2]
    assert [record["generated_tokens"] for record in records] == [4, 4]


def test_a_batch_is_several_continuations(generate: Generate) -> None:
    records = generate(PROMPT, "--batch", 3, "--seed", 1, "--max-tokens", 20)
    assert len({record["text"] for record in records}) == 3
    assert records[0]["tokens"] == generate(PROMPT, "--seed", 1, "--max-tokens", 20)["tokens"]


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-tokens", "0"], "--max-tokens"),
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"),
        (["--top-k", "-1"], "--top-k"),
        (["--top-p", "0"], "--top-p"),
        (["--min-p", "2"], "--min-p"),
        (["--repetition-penalty", "0"], "--repetition-penalty"),
        (["--repetition-window", "0"], "--repetition-window"),
        (["--greedy", "--temperature", "0.5"], "--greedy and --temperature exclude"),
        (["--greedy", "--top-k", "40"], "--greedy and --top-k exclude each other"),
        (["--top-p", "0.9", "--greedy"], "--greedy and --top-p exclude each other"),
        (["--greedy", "--min-p", "0"], "--greedy and --min-p exclude each other"),
        (["--quiet", "--verbose"], "--quiet and --verbose exclude each other"),
        (["--stop", ""], "--stop"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(1 << 64)], "--seed"),
        (["--batch", "0"], "--batch"),
        (["--logprobs", "3"], "--logprobs needs --format json or --format jsonl"),
        (["--logprobs", "-1"], "--logprobs"),
        (["--logprobs", "1001"], "is not between 0 and 1000"),
        (["--threads", "0"], "--threads"),
        (["--on-overflow", "crash"], "--on-overflow"),
        (["--interactive"], "--interactive reads its prompts from stdin"),
        (["-f", "other.txt"], "give one input"),
    ],
)
def test_bad_usage_names_the_flag(
    rbe: Rbe, rbe_file: Path, arguments: list[str], sentence: str
) -> None:
    done = rbe("generate", rbe_file, PROMPT, *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err
    assert "--verbose" in arguments or done.err.count("\n") == 1


def test_greedy_agrees_with_a_temperature_of_0_and_with_a_seed(generate: Generate) -> None:
    expected = generate(PROMPT, "--greedy", "--max-tokens", 9)["tokens"]
    for same in (["--temperature", 0, "--greedy"], ["--greedy", "--seed", 3]):
        assert generate(PROMPT, *same, "--max-tokens", 9)["tokens"] == expected


# The engine


@pytest.mark.parametrize("kv_type", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("choice", [["--greedy"], ["--seed", 3]], ids=str)
def test_the_text_depends_neither_on_threads_nor_on_guessing(
    generate: Generate, kv_type: str, choice: list[object]
) -> None:
    shared = [PROMPT, *choice, "--max-tokens", 40, "--kv-type", kv_type]
    expected = generate(*shared, "--threads", 1, "--no-lookup")
    for threads in (1, 2):
        assert generate(*shared, "--threads", threads)["tokens"] == expected["tokens"]


def test_activations_of_8_bits_can_be_asked_for(generate: Generate) -> None:
    fine, coarse = (
        generate(PROMPT, "--greedy", "--max-tokens", 3, "--activations", bits) for bits in (16, 8)
    )
    assert fine["generated_tokens"] == coarse["generated_tokens"] == 3


def test_layers_stay_coded_where_memory_is_short(rbe: Rbe, rbe_file: Path) -> None:
    needed = rbe("generate", rbe_file, PROMPT, "--greedy", "--max-memory", "1MB", "-q")
    assert needed.code == 2
    assert "MB more than --max-memory" in needed.err
    roomy = rbe("generate", rbe_file, PROMPT, "--greedy", "--max-memory", "8GB", "-q")
    assert (roomy.code, roomy.err) == (0, "")


def test_files_of_fixed_rates_are_run_without_numba(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fixed.rbe"
    assert rbe("compress", checkpoint, path, "--preset", "speed-4bit", "-q").code == 0
    program = (
        "import sys; from rbe_cli.cli.app import run; "
        f"code = run(['generate', {str(path)!r}, 'The', '--max-tokens', '3', '-q']); "
        "print(code, 'numba' in sys.modules, file=sys.stderr)"
    )
    run_python(program, check=True)  # compiles
    done = run_python(program)
    assert done.stderr == "0 False\n"
