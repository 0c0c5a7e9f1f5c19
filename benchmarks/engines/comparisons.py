"""Choose which rows are compared, and by how much `rbe` is faster."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.engines.contestant import Measurement
from benchmarks.engines.speed_rows import Row, Spread, decode, one_token_rate, prefill

BITS, QUALITY, BYTES = "bits", "KL", "bytes"


@dataclass(frozen=True)
class Ratio:
    """Say how many times as fast `rbe` is as a peer, round by round.

    Attributes:
        ours, peer: names of the rows.
        likeness: what the two have in common, see `likenesses`.
        prefill, decode: of tokens a second.
        one_token: of the peer's seconds to ours.
    """

    ours: str
    peer: str
    likeness: list[str]
    prefill: Spread
    decode: Spread
    one_token: Spread


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Return the ratios of each row of ours to those of peers that are like it in some way."""
    return [
        Ratio(
            ours.name,
            peer.name,
            found,
            prefill=_ratio(ours, peer, prefill),
            decode=_ratio(ours, peer, decode),
            one_token=_ratio(ours, peer, one_token_rate),
        )
        for ours in rows
        if ours.is_ours
        for peer, found in likenesses(ours, [row for row in rows if not row.is_ours])
    ]


def likenesses(ours: Row, peers: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """Return the peers that a row is compared with, and why.

    They are those of as many `bits`; of those whose KL is known, the next with at least as much
    and the next with less (`KL`), and the one that reads the most similar number of `bytes`.
    """
    known = [peer for peer in peers if peer.kl_divergence is not None]
    chosen = {
        BITS: [peer for peer in peers if peer.bits == ours.bits],
        QUALITY: _next_in_quality(ours, known),
        BYTES: sorted(known, key=lambda peer: _distance(ours.read_bytes, peer.read_bytes))[:1],
    }
    found = [(peer, [why for why, own in chosen.items() if peer in own]) for peer in peers]
    return [(peer, why) for peer, why in found if why]


def _next_in_quality(ours: Row, peers: Sequence[Row]) -> list[Row]:
    limit = ours.kl_divergence
    if limit is None:
        return []
    order = sorted(peers, key=_divergence)
    better = [peer for peer in order if _divergence(peer) < limit]
    return better[-1:] + [peer for peer in order if peer not in better][:1]


def _divergence(row: Row) -> float:
    return math.inf if row.kl_divergence is None else row.kl_divergence


def _distance(first: float, second: float) -> float:
    return abs(math.log(first / second))


def _ratio(ours: Row, peer: Row, value: Callable[[Measurement], float]) -> Spread:
    pairs = zip(ours.rounds, peer.rounds, strict=True)
    return Spread.of([value(mine) / value(theirs) for mine, theirs in pairs])
