"""Provide the text that a compression is calibrated on.

It is the user's text, a token file, or by default text that the checkpoint itself generates: a
random first token, and the rest sampled from the model (LLM-QAT, Liu et al. 2023, section 2.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression import text_writer
from rbe_cli.compression.text_writer import eight_bit_copy
from rbe_cli.engine.paged_cache import cache_bytes
from rbe_cli.engine.session import DEFAULT_KV_TYPE
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import Tokens, windows
from rbe_cli.jobs.ticks import Ticks
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import parameter_count
from rbe_cli.progress import Progress
from rbe_cli.runtime.heap import trim_heap
from rbe_cli.text.text_files import read_text_file
from rbe_cli.text.token_files import read_token_file
from rbe_cli.text.tokenizer import Tokenizer

WINDOW = 256  # tokens of a calibration sequence at most
SAMPLED = "sampled from the model"  # the name of text that the model generated
_HELD_OUT = 8  # for so many sequences to calibrate on, one more is kept to measure quality
_ROWS = 36  # sequences of one task at most
_CACHE_BYTES = 1 << 30  # of their keys and values at most


@dataclass(frozen=True)
class Calibration:
    """Calibration text, as sequences of token ids `[n]` that have at least two tokens each.

    Attributes:
        used: the sequences that the codec uses.
        held_out: the sequences that quality is measured on.
        description: where they come from, for the provenance of the file.
        text: a short form of `description`: the name of a file, or `SAMPLED`.
    """

    used: list[Tokens]
    held_out: list[Tokens]
    description: str
    text: str


def describe(text: Path | None, tokens: Path | None) -> tuple[str, str]:
    """Return `description` and `text` of a `Calibration` on a text, a token file, or neither."""
    path = text or tokens
    if path is None:
        return "text written by the checkpoint itself", SAMPLED
    name = path.name.encode(errors="backslashreplace").decode()  # it may not be Unicode
    return f"{'text' if text else 'tokens'} {name}", name


def default_samples(config: Gpt2Config, tunes: bool = False) -> int:
    """Return the default number of sequences to calibrate on.

    A quarter of these tokens gives about 10 % more KL divergence. Tuning uses four times as many:
    at 2 bits per weight, 96, 224 and 400 sequences give a KL divergence of .0369, .0346 and
    .0342 (docs/design-notes.md).
    """
    few = 128 if parameter_count(config) <= 50_000_000 else 48
    return 4 * few if tunes else few


def most_held_out_tokens(config: Gpt2Config, samples: int) -> int:
    """Return the largest number of predictions that quality is measured on."""
    return held_out(samples) * (min(WINDOW, config.n_positions) - 1)


def held_out(samples: int) -> int:
    """Return how many sequences are held out to measure quality, if `samples` are used."""
    return max(1, samples // _HELD_OUT)


def from_text(checkpoint: Checkpoint, path: Path, samples: int, seed: int) -> Calibration:
    """Cut a text file into windows, and draw some of them at random.

    Raises:
        UsageError: the checkpoint has no tokenizer, or the text is too short.
    """
    if checkpoint.tokenizer_json is None:
        raise UsageError(
            f"`calib` needs a tokenizer ({checkpoint.tokenizer_missing}): give token ids with "
            "`calib_tokens`"
        )
    tokenizer = Tokenizer(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
    tokens = tokenizer.encode(read_text_file(path))
    length = min(WINDOW, checkpoint.config.n_positions)
    return _split(windows(tokens, length), samples, seed, *describe(path, None))


def from_token_file(checkpoint: Checkpoint, path: Path, samples: int, seed: int) -> Calibration:
    """Cut the sequences of a token file into windows, and draw some of them at random.

    Raises:
        NotFoundError, BadFileError: the file is missing or not a token file.
        UsageError: a token is not in the vocabulary, or there is too little text.
    """
    length = min(WINDOW, checkpoint.config.n_positions)
    sequences = read_token_file(path, checkpoint.config.vocab_size)
    cut = [window for sequence in sequences for window in windows(sequence, length)]
    return _split(cut, samples, seed, *describe(None, path))


def from_model(
    checkpoint: Checkpoint,
    samples: int,
    seed: int,
    workers: Workers,
    folder: WorkFolder,
    progress: Progress,
) -> Calibration:
    """Generate text with the model, at temperature 1 after a random first token.

    Args:
        checkpoint: the model that generates the text (text_writer.py).
        samples: number of sequences to calibrate on. Some more are generated and held out.
        seed: the seed of the choice of tokens.
        workers: generate groups of sequences in parallel.
        folder: keeps the finished groups.
        progress: called with the number of finished sequences.
    """
    total, length = samples + held_out(samples), min(WINDOW, checkpoint.config.n_positions)
    parts = tasks_of(checkpoint.config, samples)
    sizes = [(i + 1) * total // parts - i * total // parts for i in range(parts)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    ticks = Ticks(progress, "writing calibration text", total * length, length)
    names = [f"text-{number}" for number in range(parts)]
    saved = [folder.load(name) for name in names]
    missing = [number for number in range(parts) if saved[number] is None]
    model = workers.shared(eight_bit_copy(checkpoint, workers)) if missing else None
    written = workers.map(
        text_writer.write,
        repeat(model), (sizes[i] for i in missing), repeat(length), (seeds[i] for i in missing),
        repeat(ticks),
    )  # fmt: skip
    sequences: list[Tokens] = []
    for name, arrays in zip(names, saved, strict=True):
        if arrays is None:
            arrays = {"tokens": next(written)}
            folder.save(name, arrays)
        sequences.extend(arrays["tokens"])
        ticks.reach(len(sequences) * length)
    del model, written
    trim_heap()
    return Calibration(sequences[:samples], sequences[samples:], *describe(None, None))


def tasks_of(config: Gpt2Config, samples: int) -> int:
    """Return how many tasks write `samples` sequences and those held out."""
    return -(-(samples + held_out(samples)) // rows_at_once(config))


def rows_at_once(config: Gpt2Config) -> int:
    """Return how many sequences a task writes together, at least one."""
    return min(_ROWS, max(1, _CACHE_BYTES // cache_bytes(config, 1, DEFAULT_KV_TYPE, WINDOW)))


def _split(
    sequences: Sequence[Tokens], samples: int, seed: int, description: str, text: str
) -> Calibration:
    """Draw sequences at random, and hold some of them out.

    Args:
        sequences: the sequences to draw from.
        samples: the number of sequences to calibrate on.
        seed: the seed of the random order.
        description, text: see `Calibration`.

    Raises:
        UsageError: fewer than two sequences have at least two tokens.
    """
    usable = [sequence for sequence in sequences if len(sequence) >= 2]
    if len(usable) < 2:
        raise UsageError(f"the calibration {description} is too short: two windows are needed")
    order = np.random.default_rng(seed).permutation(len(usable))
    count = min(len(usable), samples + held_out(samples))
    kept = max(1, count // (_HELD_OUT + 1))
    chosen = [usable[i] for i in order[:count]]
    return Calibration(chosen[kept:], chosen[:kept], description, text)
