"""Drive `rbe` itself, by its command line."""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.engines.contestant import (
    Contestant,
    EngineSubject,
    Measurement,
    run_json,
    seconds_of,
)
from benchmarks.engines.job import (
    CHECKED_TOKENS,
    DECODED_TOKENS,
    DEPTH,
    PREFILL_TOKENS,
    some_tokens,
)
from rbe_cli.compression.settings import load_preset, preset_names

CALIB_SAMPLES = 2  # speed and the spread of integers hardly depend on them


class Rbe(Contestant):
    """Measure the presets; those that are entropy-coded take minutes to build.

    Args:
        threads: that `rbe` may use.
    """

    name = "rbe"
    variants = {name: round(sum(load_preset(name).goals.values())) for name in preset_names()}  # noqa: RUF012

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def is_installed(self) -> bool:
        return True

    def build(self, subject: EngineSubject, variant: str) -> None:
        path = self._path(subject, variant)
        if not path.exists():
            options = ["--preset", variant, "--calib-samples", str(CALIB_SAMPLES), "--force"]
            run_json(self._command("compress", subject.source, str(path), *options))

    def write_logits(self, subject: EngineSubject, variant: str, path: Path) -> None:
        import numpy as np

        tokens = token_file(subject, CHECKED_TOKENS)
        model = str(self._path(subject, variant))
        wanted = ["--tokens", str(tokens), "--logits", str(path), "--top-k", "0", "--force"]
        run_json(self._command("run", model, *wanted))
        np.save(path, np.load(path).reshape(-1, subject.vocab_size)[-1])

    def measure(self, subject: EngineSubject, variant: str) -> Measurement:
        path = self._path(subject, variant)
        prefill = self._bench(path, prompt=PREFILL_TOKENS, new=1, depth=0)
        decode = self._bench(path, prompt=1, new=DECODED_TOKENS, depth=DEPTH)
        options = ["--tokens", str(token_file(subject, DEPTH)), "--max-tokens", "1", "--greedy"]
        return Measurement(
            prefill_tokens_per_second=prefill["prefill_tokens_per_second"],
            decode_tokens_per_second=decode["decode_tokens_per_second"],
            load_seconds=prefill["load_seconds"],
            peak_rss_bytes=int(max(run["peak_rss_bytes"] for run in (prefill, decode))),
            read_bytes=int(decode["bytes_per_token"]),
            one_token_seconds=seconds_of(self._command("generate", str(path), *options)),
        )

    def _bench(self, path: Path, *, prompt: int, new: int, depth: int) -> dict[str, float]:
        """Return what `rbe bench` says of the model."""
        counts = {"--prompt-tokens": prompt, "--max-tokens": new, "--depth": depth, "--repeat": 1}
        options = [str(part) for pair in counts.items() for part in pair]
        found: dict[str, float] = run_json(self._command("bench", "--model", str(path), *options))
        return found

    def _command(self, *arguments: str) -> Sequence[str]:
        common = ["--threads", str(self._threads), "--format", "json", "--quiet"]
        return [sys.executable, "-m", "rbe_cli", *arguments, *common]

    def _path(self, subject: EngineSubject, variant: str) -> Path:
        return subject.folder / f"{variant}.rbe"


def token_file(subject: EngineSubject, count: int) -> Path:
    """Write the first `some_tokens` as `rbe` reads them; return the path."""
    path = subject.folder / f"{count}-tokens.txt"
    path.write_text(" ".join(map(str, some_tokens(count, subject.vocab_size))) + "\n")
    return path
