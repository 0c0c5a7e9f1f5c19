"""Measure a peer through `worker`."""

import subprocess
from pathlib import Path

from benchmarks.engines.contestant import (
    ROOT,
    Contestant,
    EngineSubject,
    Measurement,
    environment,
    run_json,
    seconds_of,
)
from benchmarks.engines.job import Job
from benchmarks.engines.peers import peer

FIND = "import sys, importlib.util as u; sys.exit(None in map(u.find_spec, sys.argv[1:]))"


class Peer(Contestant):
    """Drive a peer whose processes run in an interpreter that has its packages.

    Args:
        name: a key of `peers.MODULES`.
        python: the interpreter.
        threads: that the engine may use.
    """

    def __init__(self, name: str, python: str, threads: int) -> None:
        self.name = name
        self.variants = peer(name).variants
        self._python = python
        self._threads = threads

    def is_installed(self) -> bool:
        command = [self._python, "-c", FIND, *peer(self.name).packages]
        return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode == 0

    def build(self, subject: EngineSubject, variant: str) -> None:
        if not self._path(subject, variant).exists():
            run_json(self._command("build", subject, variant))

    def write_logits(self, subject: EngineSubject, variant: str, path: Path) -> None:
        run_json(self._command("logits", subject, variant, str(path)))

    def measure(self, subject: EngineSubject, variant: str) -> Measurement:
        found = run_json(self._command("measure", subject, variant))
        one_token = self._command("first-token", subject, variant)
        return Measurement(
            **found,
            read_bytes=bytes_of(self._path(subject, variant)),
            one_token_seconds=seconds_of(one_token),
        )

    def _command(
        self, action: str, subject: EngineSubject, variant: str, output: str = ""
    ) -> list[str]:
        job = Job(
            engine=self.name,
            variant=variant,
            source=subject.source,
            path=str(self._path(subject, variant)),
            output=output,
            vocab_size=subject.vocab_size,
            threads=self._threads,
        )
        return [self._python, "-m", "benchmarks.engines.worker", action, job.to_json()]

    def _path(self, subject: EngineSubject, variant: str) -> Path:
        return subject.folder / f"{self.name}-{variant}"


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [own for own in path.rglob("*") if own.is_file()]
    return sum(own.stat().st_size for own in files)
