"""Hold what was measured of each engine and variant."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.engines.contestant import Measurement

OURS = "rbe"


@dataclass(frozen=True)
class Spread:
    """Hold the median and the extremes of one number over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def format(self, digits: int) -> str:
        middle, low, high = (f"{value:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{middle} ({low}-{high})"


@dataclass(frozen=True)
class Row:
    """Hold one engine and variant over all rounds.

    Attributes:
        engine, variant: names.
        bits: of a weight, by the name of the variant.
        cosine: of the logits with the reference's; None if it was not checked.
        kl_divergence: of this variant of `english-6m`, in nats a token; None if nobody measured it.
        rounds: one measurement a round.
    """

    engine: str
    variant: str
    bits: int
    cosine: float | None
    kl_divergence: float | None
    rounds: list[Measurement]

    @property
    def name(self) -> str:
        return f"{self.engine} {self.variant}"

    @property
    def is_ours(self) -> bool:
        return self.engine == OURS

    @property
    def read_bytes(self) -> int:
        """Return the bytes that decoding a token reads, the same in every round."""
        return self.rounds[0].read_bytes

    def spread(self, value: Callable[[Measurement], float]) -> Spread:
        return Spread.of([value(measurement) for measurement in self.rounds])


def prefill(measurement: Measurement) -> float:
    return measurement.prefill_tokens_per_second


def decode(measurement: Measurement) -> float:
    return measurement.decode_tokens_per_second


def one_token_rate(measurement: Measurement) -> float:
    """Return how many whole processes of one token run in a second."""
    return 1 / measurement.one_token_seconds
