"""Measure how a model starts: the time to load it and to its first token, and the memory.

The most memory that a process has held tells nothing of the second model in it. Where several
models are compared, each therefore starts in a process of its own.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rbe_cli.backends import new_session
from rbe_cli.choices import ActivationBits, Backend, KvType
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_model
from rbe_cli.engine.row_session import RowSession
from rbe_cli.engine.session import DEFAULT_KV_TYPE
from rbe_cli.errors import RbeError
from rbe_cli.jobs.peak_memory import peak_rss_bytes
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.progress import Progress, no_progress
from rbe_cli.quoting import clipped
from rbe_cli.runtime.child_python import run_child_python

_PROGRAM = "from rbe_cli.bench.model_start import main; main()"


@dataclass(frozen=True)
class ModelOptions:
    """Say which tokens to time.

    Attributes:
        path: a `.rbe` file.
        prompt_tokens: tokens that one prefill takes; None for 512, or as many as the context
            leaves.
        max_tokens: tokens that are decoded one by one; None for 128, or as many as the context
            or some seconds leave.
        depth: tokens in the cache before the first of either.
        kv_type: how keys and values are kept.
        activations: bits that the prompt's are rounded to.
        backend: what computes.
    """

    path: Path
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    depth: int = 0
    kv_type: KvType = DEFAULT_KV_TYPE
    activations: ActivationBits = "auto"
    backend: Backend = "cpu"


@dataclass(frozen=True)
class Start:
    """Hold the start of a model, in the fields of docs/json.md (see `models.ModelTiming`)."""

    load_seconds: float
    time_to_first_token_seconds: float
    peak_rss_bytes: int


def start(
    options: ModelOptions, prompt_tokens: int, kernels: Kernels, progress: Progress
) -> tuple[Start, RowSession]:
    """Load a model and find the first token after `depth` tokens and a prompt.

    It is loaded twice: the first time compiles what the second, which is timed, needs. A GPU's
    kernels are compiled when they first run, so there the first model runs, too.

    Raises:
        NotFoundError, BadFileError: the file cannot be loaded.
    """
    first = load(options, kernels, progress)
    if options.backend == "cuda":
        _first_token(first, options, prompt_tokens)
    del first
    begin = perf_counter()
    session = load(options, kernels, progress)
    load_seconds = perf_counter() - begin
    first_token_seconds = _first_token(session, options, prompt_tokens)
    return Start(load_seconds, first_token_seconds, peak_rss_bytes()), session


def _first_token(session: RowSession, options: ModelOptions, prompt_tokens: int) -> float:
    """Return the seconds from a prompt to its first token; the tokens before it are not timed."""
    if options.depth:
        session.prefill(0, random_tokens(session, options.depth, 0))
    prompt = random_tokens(session, prompt_tokens, 1)
    begin = perf_counter()
    session.prefill(0, prompt).argmax()
    return perf_counter() - begin


def load(options: ModelOptions, kernels: Kernels, progress: Progress) -> RowSession:
    """Return a session of one row on the backend of the options."""
    with Container.open(options.path) as container:
        model = load_model(container, kernels.threads, progress)
    return new_session(
        options.backend, options.kv_type, options.activations, model, kernels.team, progress
    )


def random_tokens(session: RowSession, count: int, seed: int) -> NDArray[np.int64]:
    """Return ids `[count]`, the same for each model of the same vocabulary."""
    return np.random.default_rng(seed).integers(0, session.vocab_size, count)


def start_alone(options: ModelOptions, prompt_tokens: int, threads: int | None) -> Start:
    """Return what `start` finds in a process of its own.

    Raises:
        RbeError: the process failed.
    """
    words = asdict(options) | {"path": str(options.path.absolute())}
    arguments = json.dumps([words, prompt_tokens, threads])
    done = run_child_python("-c", _PROGRAM, arguments)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = clipped((lines or ["it ended without a word"])[-1], 200)
        raise RbeError(f"{options.path} could not be timed: {reason}")
    return Start(**json.loads(done.stdout))


def main() -> None:
    """Print the start of the model that `start_alone` describes, as JSON."""
    words, prompt_tokens, threads = json.loads(sys.argv[1])
    options = ModelOptions(**words | {"path": Path(words["path"])})
    kernels = load_kernels("fast", threads)
    found, _ = start(options, prompt_tokens, kernels, no_progress)
    sys.stdout.write(json.dumps(asdict(found)))
