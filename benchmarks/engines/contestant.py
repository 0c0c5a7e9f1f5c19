"""Define what is compared, and run its processes."""

import json
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rbe_cli.errors import RbeError
from rbe_cli.runtime.instruction_sets import VARIABLE, InstructionSet

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class EngineSubject:
    """Describe the checkpoint that all engines run.

    Attributes:
        source: as of `rbe compress`.
        folder: where its models in the engines' forms are kept.
        vocab_size: of the model.
    """

    source: str
    folder: Path
    vocab_size: int

    @property
    def reference(self) -> Path:
        """Return the path of the logits that all engines are held to, a `.npy` file."""
        return self.folder / "reference.npy"


@dataclass(frozen=True)
class Measurement:
    """Hold the figures of one engine and variant in one round.

    Attributes:
        prefill_tokens_per_second: 512 tokens into an empty cache, up to the last one's logits.
        decode_tokens_per_second: 128 tokens one by one after 32.
        load_seconds: from a file that the system has in memory to a model that can run.
        peak_rss_bytes: of the process that loaded, prefilled and decoded.
        read_bytes: that decoding a token reads: `rbe` says so; of a peer the bytes of its files.
        one_token_seconds: from the start to the end of a process that loads the model, runs a
            prompt of 32 tokens and prints the likeliest next.
        prefill_setting, decode_setting: the engine's setting that was the fastest.
    """

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    load_seconds: float
    peak_rss_bytes: int
    read_bytes: int
    one_token_seconds: float
    prefill_setting: str = "default"
    decode_setting: str = "default"


class Contestant(ABC):
    """Drive an engine through processes of its own.

    Attributes:
        name: as the report has it.
        variants: by name, the bits of a weight, scales not counted.
    """

    name: str
    variants: Mapping[str, int]

    @abstractmethod
    def is_installed(self) -> bool:
        """Return whether the engine's packages are installed."""

    @abstractmethod
    def build(self, subject: EngineSubject, variant: str) -> None:
        """Bring the checkpoint into the engine's form, unless that is there already."""

    @abstractmethod
    def write_logits(self, subject: EngineSubject, variant: str, path: Path) -> None:
        """Write the checked prompt's logits, float32 `[vocab]`, `.npy`, up to a constant."""

    @abstractmethod
    def measure(self, subject: EngineSubject, variant: str) -> Measurement:
        """Measure one round."""


def run_json(command: Sequence[str]) -> dict[str, Any]:
    """Return the JSON that a process prints.

    Args:
        command: an interpreter, `-m`, a module and its arguments.

    Raises:
        RbeError: it failed; the message is the last line of its stderr.
    """
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment()
    )
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise RbeError(f"{command[2]}: {said[-1]}")
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def seconds_of(command: Sequence[str]) -> float:
    """Return the wall-clock seconds of a whole process, which must not fail."""
    start = perf_counter()
    run_json(command)
    return perf_counter() - start


def environment() -> dict[str, str]:
    """Return the environment of the measured processes, numpy at its fastest for all of them.

    Where `RBE_INSTRUCTIONS` holds `rbe` to an instruction set, the peers are held to it as well.
    """
    found = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    if os.environ.get(VARIABLE) == InstructionSet.avx2.value:
        found |= dict.fromkeys(("CT2_FORCE_CPU_ISA", "ONEDNN_MAX_CPU_ISA"), "AVX2")
        found["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"
    return found
