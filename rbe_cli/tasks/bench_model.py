"""Times a compressed model: loading, the first token, prefill and decode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np

from rbe_cli.container.reader import Container
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.resident import load_model
from rbe_cli.engine.session import DEFAULT_KV_TYPE, Session
from rbe_cli.errors import UsageError
from rbe_cli.kernels.bandwidth import Reader
from rbe_cli.kernels.records import Activations, KvType
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress
from rbe_cli.tasks.memory import peak_rss_bytes
from rbe_cli.tasks.timing import time_in_turn

_PROMPT_TOKENS = 512
_MAX_TOKENS = 128


@dataclass(frozen=True)
class ModelOptions:
    """Which tokens to time.

    Attributes:
        path: a `.rbe` file.
        prompt_tokens: that one prefill takes; None for 512, or as many as the context leaves.
        max_tokens: decoded one by one; None for 128, or as many as the context leaves.
        depth: tokens in the cache before the first of either.
        kv_type: how keys and values are kept.
        activations: bits that the prompt's are rounded to.
    """

    path: Path
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    depth: int = 0
    kv_type: KvType = DEFAULT_KV_TYPE
    activations: Activations = "auto"


class Spread(NamedTuple):
    """The slowest and the fastest, in tokens per second."""

    min: float
    max: float


@dataclass(frozen=True)
class ModelTiming:
    """A model in use by one sequence, under the contract's names.

    Attributes:
        prefill_tokens_per_second, decode_tokens_per_second: at the median time; neither
            tokenisation nor sampling is counted.
        load_seconds: from the file, which the system has in memory already, to a model that
            is ready to run; compilation is not counted.
        time_to_first_token_seconds: from the loaded model to the likeliest token after the
            first prompt, whose memory is then touched for the first time.
        peak_rss_bytes: of the process until that token, compilation included if there was any.
        bytes_per_token: `bytes_per_token` at the given depth.
        prefill_spread, decode_spread: of the repetitions.
        read_bytes_per_second: at which all threads read as many bytes as a token needs, at the
            median time.
        bandwidth_share: of it that decoding reaches.
        kv_type: how keys and values were kept.
    """

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    load_seconds: float
    time_to_first_token_seconds: float
    peak_rss_bytes: int
    bytes_per_token: int
    prefill_spread: Spread
    decode_spread: Spread
    read_bytes_per_second: float
    bandwidth_share: float
    kv_type: KvType


def time_model(
    options: ModelOptions, kernels: Kernels, repeat: int | None, progress: Progress
) -> ModelTiming:
    """Load a model and time it on random tokens.

    Args:
        options: the file and the tokens.
        kernels: what computes.
        repeat: prefills, and decodes of all tokens; None as in `time_in_turn`.
        progress: told after loading and after each measurement.

    Raises:
        NotFoundError, BadFileError: the file cannot be loaded.
        UsageError: the tokens do not fit the model's context.
    """
    stage = f"timing {options.path}"
    with Container.open(options.path) as container:
        prompt_tokens, max_tokens = _fitting_tokens(options, container.config.n_positions)
    progress(stage, 0, 3)
    _load(options, kernels, progress)  # compiles what the one that is timed needs
    start = perf_counter()
    session = _load(options, kernels, progress)
    load_seconds = perf_counter() - start
    progress(stage, 1, 3)

    model = session.model
    rng = np.random.default_rng(0)
    past, prompt, new = (
        rng.integers(0, model.config.vocab_size, count)
        for count in (options.depth, prompt_tokens, max_tokens)
    )
    if options.depth:
        session.prefill(0, past)
    start = perf_counter()
    session.prefill(0, prompt).argmax()
    first_token_seconds = perf_counter() - start
    peak_rss = peak_rss_bytes()
    progress(stage, 2, 3)
    read_bytes = bytes_per_token(model, session.cache, options.depth)
    team = model.kernels.team
    assert team is not None

    def prefill() -> None:
        _rewind(session, options.depth)
        session.prefill(0, prompt)

    def decode() -> None:
        _rewind(session, options.depth)
        for token in new[:, None]:  # [max_tokens, 1] -> [1]
            session.decode([0], token)

    calls: dict[str, Callable[[], object]] = {
        "prefill": prefill,
        "decode": decode,
        "read": Reader(team, read_bytes),
    }
    for call in calls.values():
        call()  # warms up
    seconds = time_in_turn(calls, repeat)
    progress(stage, 3, 3)
    decode_rate = max_tokens / median(seconds["decode"])
    read_rate = read_bytes / median(seconds["read"])
    return ModelTiming(
        prefill_tokens_per_second=prompt_tokens / median(seconds["prefill"]),
        decode_tokens_per_second=decode_rate,
        load_seconds=load_seconds,
        time_to_first_token_seconds=first_token_seconds,
        peak_rss_bytes=peak_rss,
        bytes_per_token=read_bytes,
        prefill_spread=_spread(prompt_tokens, seconds["prefill"]),
        decode_spread=_spread(max_tokens, seconds["decode"]),
        read_bytes_per_second=read_rate,
        bandwidth_share=decode_rate * read_bytes / read_rate,
        kv_type=options.kv_type,
    )


def _spread(tokens: int, seconds: Sequence[float]) -> Spread:
    return Spread(tokens / max(seconds), tokens / min(seconds))


def bytes_per_token(model: Gpt2, cache: PagedCache, depth: int) -> int:
    """Bytes that decoding one token reads, with `depth` tokens in the cache before it.

    All weights as they are held, a tied head once, and keys and values of `depth` + 1 positions.
    The token's own embedding vectors are not counted.
    """
    norms = [model.ln_f, *(norm for block in model.blocks for norm in (block.ln_1, block.ln_2))]
    weights = sum(linear.weight.nbytes + linear.bias.nbytes for linear in model.linears())
    weights += sum(2 * 4 * norm.width for norm in norms)
    return weights + cache.position_bytes * (depth + 1)


def _fitting_tokens(options: ModelOptions, context: int) -> tuple[int, int]:
    """Tokens to prefill and to decode."""
    room = context - options.depth
    if room < 1:
        raise UsageError(f"--depth {options.depth} fills the model's context of {context} tokens")
    asked = {"--prompt-tokens": options.prompt_tokens, "--max-tokens": options.max_tokens}
    for flag, count in asked.items():
        if count is not None and count > room:
            raise UsageError(
                f"{flag} {count} after --depth {options.depth} is more than the model's context "
                f"of {context} tokens"
            )
    prompt_tokens = options.prompt_tokens or min(_PROMPT_TOKENS, room)
    max_tokens = options.max_tokens or min(_MAX_TOKENS, room)
    return prompt_tokens, max_tokens


def _load(options: ModelOptions, kernels: Kernels, progress: Progress) -> Session:
    with Container.open(options.path) as container:
        model = load_model(container, kernels, progress)
    return Session(model, 1, options.kv_type, options.activations, progress)


def _rewind(session: Session, depth: int) -> None:
    """Forget all but the first `depth` tokens, whose keys and values stay in the cache."""
    session.truncate(0, depth)
