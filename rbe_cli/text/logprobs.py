"""Log-probabilities of generated tokens and of what might have come instead.

They belong to the model's own distribution: to its logits before the repetition penalty, the
filters (top-k, top-p, min-p) and the temperature.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.nn.loss import log_softmax
from rbe_cli.text.sampling import top_k
from rbe_cli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """Describes a token that might have come.

    Attributes:
        token: its id.
        text: its own text (`Tokenizer.token_text`); None without a tokenizer.
        logprob: natural logarithm of its probability.
    """

    token: int
    text: str | None
    logprob: float


@dataclass(frozen=True)
class ChosenLogprob(TokenLogprob):
    """Describes the token that was generated; `top` lists the likeliest, likeliest first."""

    top: list[TokenLogprob]


def chosen_logprob(
    logits: NDArray[np.float32], token: int, count: int, tokenizer: Tokenizer | None
) -> ChosenLogprob:
    """Score a token and the `count` likeliest ones.

    Args:
        logits: finite, `[vocab]`.
        token: the one that was generated, which need not be among the likeliest.
        count: how many of the likeliest; all if there are fewer. Of equally likely ones those
            with the lowest ids come first.
        tokenizer: gives the texts.
    """
    scored = log_softmax(logits.astype(np.float64))
    likeliest = top_k(logits, count) if count else np.empty(0, np.intp)  # in order of ids
    likeliest = likeliest[np.argsort(-scored[likeliest], kind="stable")]

    def text(token: int) -> str | None:
        return tokenizer.token_text(token) if tokenizer else None

    top = [TokenLogprob(own, text(own), float(scored[own])) for own in likeliest.tolist()]
    return ChosenLogprob(token, text(token), float(scored[token]), top)
