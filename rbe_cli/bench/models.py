"""Time a compressed model: loading, the first token, prefill and decode."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Literal, NamedTuple

from rbe_cli.bench.model_start import (
    ModelOptions,
    Start,
    load,
    random_tokens,
    start,
    start_alone,
)
from rbe_cli.bench.timing import time_in_turn
from rbe_cli.choices import KvType
from rbe_cli.container.reader import Container
from rbe_cli.engine.row_session import RowSession
from rbe_cli.engine.session import Session
from rbe_cli.errors import Terminated, UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.progress import Progress
from rbe_cli.runtime.memory_bandwidth import Reader

Part = Literal["prefill", "decode", "read"]
_PROMPT_TOKENS = 512
_MAX_TOKENS = 128
_FEWEST_TOKENS = 16
_DECODE_SECONDS = 5.0  # at most of one decode, where the number of tokens is not given
_PROBE_TOKENS = 4


class RateSpread(NamedTuple):
    """Hold the slowest and the fastest rate, in tokens per second."""

    min: float
    max: float


@dataclass(frozen=True)
class ModelTiming:
    """Describe a model in use by one sequence, in the fields of docs/json.md.

    Attributes:
        model: the file.
        prompt_tokens, max_tokens, depth: tokens that were timed, see `ModelOptions`.
        prefill_tokens_per_second, decode_tokens_per_second: at the median time; neither
            tokenisation nor sampling is counted.
        load_seconds: from the file, which the system has in memory already, to a model that
            is ready to run; compilation is not counted.
        time_to_first_token_seconds: from the loaded model to the likeliest token after the
            first prompt, whose memory is then touched for the first time.
        peak_rss_bytes: of the process until that token, compilation included if there was any;
            of several models each has a process of its own for that.
        bytes_per_token: `bytes_per_token` at the given depth.
        prefill_spread, decode_spread: extremes of the repetitions.
        read_bytes_per_second: at which all threads read as many bytes as a token needs, at the
            median time. On a GPU, at which a copy reads and writes as many.
        bandwidth_share: share of this rate that decoding reaches.
        kv_type: how keys and values were kept.
    """

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    load_seconds: float
    time_to_first_token_seconds: float
    peak_rss_bytes: int
    bytes_per_token: int
    prefill_spread: RateSpread
    decode_spread: RateSpread
    read_bytes_per_second: float
    bandwidth_share: float
    kv_type: KvType
    model: str
    prompt_tokens: int
    max_tokens: int
    depth: int


def time_models(
    models: Sequence[ModelOptions], kernels: Kernels, repeat: int | None, progress: Progress
) -> Iterator[ModelTiming]:
    """Load models and time them on random tokens, all in turns.

    Compilation and first calls are not timed. An interruption gives the models that were
    measured until then, each at least once, before it goes on.

    Args:
        models: the files and the tokens.
        kernels: the kernels that compute.
        repeat: prefills, and decodes of all tokens; None as in `time_in_turn`.
        progress: told after each start and after the measurement.

    Raises:
        NotFoundError, BadFileError: a file cannot be loaded.
        UsageError: the tokens do not fit a model's context.
    """
    sizes = [_fitting_tokens(options) for options in models]
    stage = "timing " + ", ".join(str(options.path) for options in models)
    steps = len(models) + 1
    progress(stage, 0, steps)
    runs = []
    for number, (options, (prompt_tokens, max_tokens)) in enumerate(
        zip(models, sizes, strict=True), start=1
    ):
        if len(models) == 1:
            started, session = start(options, prompt_tokens, kernels, progress)
        else:
            started = start_alone(options, prompt_tokens, kernels.threads)
            session = load(options, kernels, progress)
        runs.append(_Run(options, started, session, prompt_tokens, max_tokens))
        progress(stage, number, steps)
    calls = {(run, part): call for run in runs for part, call in run.calls().items()}
    for call in calls.values():
        call()  # warms up
    seconds: dict[tuple[_Run, Part], list[float]] = {}
    try:
        time_in_turn(calls, repeat, found=seconds)
    except (KeyboardInterrupt, Terminated):
        yield from _timings(runs, seconds)
        raise
    progress(stage, steps, steps)
    yield from _timings(runs, seconds)


class _Run:
    """Hold a model that is ready to be timed."""

    def __init__(
        self,
        options: ModelOptions,
        started: Start,
        session: RowSession,
        prompt_tokens: int,
        max_tokens: int,
    ) -> None:
        self._options, self._start, self._session = options, started, session
        self._prompt = random_tokens(session, prompt_tokens, 1)
        self._new = random_tokens(session, max_tokens, 2)
        if options.depth and session.length(0) < options.depth:  # it has not started here
            session.prefill(0, random_tokens(session, options.depth, 0))
        if options.max_tokens is None:
            self._new = self._new[: self._within_seconds()]
        self._read_bytes = bytes_per_token(session, options.depth)
        self._read = _memory_reader(session, self._read_bytes)

    def calls(self) -> dict[Part, Callable[[], object]]:
        return {"prefill": self._prefill, "decode": self._decode, "read": self._read}

    def timing(self, seconds: dict[Part, list[float]]) -> ModelTiming:
        """Return the timing of a model from the seconds of each call."""
        prompt_tokens, max_tokens = self._prompt.size, self._new.size
        decode_rate = max_tokens / median(seconds["decode"])
        read_rate = self._read_bytes / median(seconds["read"])
        return ModelTiming(
            prefill_tokens_per_second=prompt_tokens / median(seconds["prefill"]),
            decode_tokens_per_second=decode_rate,
            load_seconds=self._start.load_seconds,
            time_to_first_token_seconds=self._start.time_to_first_token_seconds,
            peak_rss_bytes=self._start.peak_rss_bytes,
            bytes_per_token=self._read_bytes,
            prefill_spread=_spread(prompt_tokens, seconds["prefill"]),
            decode_spread=_spread(max_tokens, seconds["decode"]),
            read_bytes_per_second=read_rate,
            bandwidth_share=decode_rate * self._read_bytes / read_rate,
            kv_type=self._options.kv_type,
            model=str(self._options.path),
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            depth=self._options.depth,
        )

    def _prefill(self) -> None:
        self._rewind()
        self._session.prefill(0, self._prompt)

    def _decode(self, count: int | None = None) -> None:
        self._rewind()
        for token in self._new[:count, None]:  # [max_tokens, 1] -> [1]
            self._session.decode([0], token)

    def _within_seconds(self) -> int:
        """Return how many tokens a decode may take, so that a slow model is timed on fewer."""
        self._decode(_PROBE_TOKENS)  # warms up
        begin = perf_counter()
        self._decode(_PROBE_TOKENS)
        seconds_a_token = (perf_counter() - begin) / _PROBE_TOKENS
        return max(_FEWEST_TOKENS, int(_DECODE_SECONDS / seconds_a_token))

    def _rewind(self) -> None:
        """Forget all but the first `depth` tokens, whose keys and values stay in the cache."""
        self._session.truncate(0, self._options.depth)


def _memory_reader(session: RowSession, size: int) -> Callable[[], None]:
    """Return a call that moves `size` bytes of the memory in which a session's weights lie."""
    if isinstance(session, Session):
        return Reader(session.team, size)
    from rbe_cli.cuda.device_copy import DeviceCopy

    return DeviceCopy(size)


def _timings(
    runs: Sequence[_Run], seconds: dict[tuple[_Run, Part], list[float]]
) -> Iterator[ModelTiming]:
    """Return the results of the models whose every part was measured."""
    for run in runs:
        own = {part: seconds.get((run, part), []) for part in run.calls()}
        if all(own.values()):
            yield run.timing(own)


def _spread(tokens: int, seconds: Sequence[float]) -> RateSpread:
    return RateSpread(tokens / max(seconds), tokens / min(seconds))


def bytes_per_token(session: RowSession, depth: int) -> int:
    """Return the bytes that decoding one token reads, with `depth` tokens in the cache before it.

    They are all weights as they are held, a tied head once, and keys and values of `depth` + 1
    positions. The token's own embedding vectors are not counted.
    """
    return session.weight_bytes + session.cache.position_bytes * (depth + 1)


def _fitting_tokens(options: ModelOptions) -> tuple[int, int]:
    """Return how many tokens to prefill and to decode."""
    with Container.open(options.path) as container:
        context = container.config.n_positions
    room = context - options.depth
    if room < 1:
        raise UsageError(f"`depth` {options.depth} fills the model's context of {context} tokens")
    asked = {"`prompt_tokens`": options.prompt_tokens, "`max_tokens`": options.max_tokens}
    for flag, count in asked.items():
        if count is not None and count > room:
            raise UsageError(
                f"{flag} {count} after `depth` {options.depth} is more than the model's context "
                f"of {context} tokens"
            )
    prompt_tokens = options.prompt_tokens or min(_PROMPT_TOKENS, room)
    max_tokens = options.max_tokens or min(_MAX_TOKENS, room)
    return prompt_tokens, max_tokens
