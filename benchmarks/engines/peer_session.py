"""Define what every peer does: write a checkpoint in its form, open it, run tokens through it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter


class PeerSession(ABC):
    """Run one sequence through a loaded model and its cache."""

    @abstractmethod
    def prefill(self, tokens: Sequence[int]) -> None:
        """Run tokens through an emptied cache, up to the logits of the last."""

    @abstractmethod
    def logits(self, tokens: Sequence[int]) -> list[float]:
        """Return the logits `[vocab]` after a prefill of these tokens."""

    def checked_logits(self, tokens: Sequence[int]) -> list[float]:
        """Return the same, with half of the tokens decoded if the engine lets them be chosen."""
        return self.logits(tokens)

    @abstractmethod
    def decode_seconds(self, prompt: Sequence[int], new: Sequence[int]) -> float:
        """Return the seconds of decoding `len(new)` tokens one by one after the prompt.

        An engine whose tokens cannot be chosen decodes as many that it chooses itself.
        """


class SteppingSession(PeerSession):
    """Run a sequence one token at a time."""

    @abstractmethod
    def step(self, token: int) -> None:
        """Run one more token, up to its logits."""

    @abstractmethod
    def last_logits(self) -> list[float]:
        """Return the logits of the newest token, `[vocab]`."""

    def logits(self, tokens: Sequence[int]) -> list[float]:
        self.prefill(tokens)
        return self.last_logits()

    def checked_logits(self, tokens: Sequence[int]) -> list[float]:
        middle = len(tokens) // 2
        self.prefill(tokens[:middle])
        for token in tokens[middle:]:
            self.step(token)
        return self.last_logits()

    def decode_seconds(self, prompt: Sequence[int], new: Sequence[int]) -> float:
        self.prefill(prompt)
        start = perf_counter()
        for token in new:
            self.step(token)
        return perf_counter() - start


class PeerEngine(ABC):
    """Describe a peer.

    Attributes:
        packages: modules that it needs.
        variants: by name, the bits of a weight, scales not counted.
        settings: ways to run it, all of which are tried; the fastest counts.
    """

    packages: tuple[str, ...]
    variants: Mapping[str, int]
    settings: tuple[str, ...] = ("default",)

    @abstractmethod
    def build(self, source: str, variant: str, path: Path) -> None:
        """Write a checkpoint in the engine's own form, a file or a folder."""

    @abstractmethod
    def open(self, path: Path, variant: str, setting: str, threads: int) -> PeerSession:
        """Load what `build` wrote."""
