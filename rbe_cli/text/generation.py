"""The generation loop: prefill each row, then decode all rows that go on, one token at a time."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import UsageError
from rbe_cli.text.draft_tokens import DraftTokens
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.logprobs import ChosenLogprob, chosen_logprob
from rbe_cli.text.sampling import make_sampler, row_generator
from rbe_cli.text.streaming import TextStream
from rbe_cli.text.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length", "context"]


class GenerationSession(Protocol):
    """A model with one KV cache a row, as the loop sees it."""

    @property
    def n_positions(self) -> int:
        """Tokens a row's cache can hold."""

    @property
    def vocab_size(self) -> int:
        """Logits a token."""

    def length(self, row: int) -> int:
        """Tokens in the row's cache."""

    def reset(self, row: int) -> None:
        """Empty the row's cache."""

    def prefill(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append `tokens` [n]; return the logits [vocab] after the last one."""

    def decode(self, rows: Sequence[int], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append one token a row; return the logits [len(rows), vocab]."""

    def extend(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append `tokens` [n]; return the logits [n, vocab] after each, those of `decode`."""

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of the row's cache."""


@dataclass(frozen=True)
class GenerationStep:
    """One new token.

    Attributes:
        row: index of the prompt.
        token: its id; an end-of-text token too is a step.
        text: what can be shown since the row's last step. It lags behind the tokens while a
            character is incomplete or a stop string is undecided, so it may be empty.
        finish_reason: None while the row goes on; `eos`: an end-of-text token; `stop`: a stop
            string; `length`: `max_tokens`; `context`: no position is left.
        logprobs: of the token and its alternatives; None if `options.logprobs` is.
    """

    row: int
    token: int
    text: str
    finish_reason: FinishReason | None
    logprobs: ChosenLogprob | None = None


@dataclass(eq=False)
class _Row:
    index: int
    history: list[int]  # the prompt and what was generated; the cache holds its end
    tokens_left: int
    rng: np.random.Generator
    text: TextStream
    finished: bool = False


def generate(
    session: GenerationSession,
    prompts: Sequence[NDArray[np.int64]],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    eos_token_ids: Collection[int],
) -> Iterator[GenerationStep]:
    """Continue every prompt `[n]`, each in the session's row of the same index.

    Rows are independent: a row's tokens follow from its prompt, the options, the seed and its
    index alone. Steps of different rows alternate in no promised order. The checks are made at
    the call, the work while iterating.

    Args:
        session: the model; its rows from 0 to len(prompts) - 1 are emptied and used.
        prompts: ids below `session.vocab_size`.
        options: how tokens are chosen and when a row ends.
        tokenizer: None leaves every step's text empty.
        eos_token_ids: tokens that end a row; empty if none does.

    Raises:
        UsageError: a prompt is empty, or longer than the context and `on_overflow` is `stop`;
            stop strings were given without a tokenizer.
        RbeError: while iterating, if the logits are not finite.
    """
    for prompt in prompts:
        _check_prompt(prompt, session.n_positions, options)
    if options.stop and tokenizer is None:
        raise UsageError("--stop needs a tokenizer, and this model has none")
    rows = [
        _Row(
            index,
            prompt.tolist(),
            options.max_tokens,
            row_generator(options.seed, index),
            TextStream(tokenizer, options.stop, prompt.tolist()),
        )
        for index, prompt in enumerate(prompts)
    ]
    return _steps(session, rows, options, tokenizer, frozenset(eos_token_ids))


def _check_prompt(prompt: NDArray[np.int64], n_positions: int, options: GenerationOptions) -> None:
    if prompt.size == 0:
        raise UsageError("the prompt is empty: there is nothing to continue")
    if prompt.size > n_positions and options.on_overflow == "stop":
        raise UsageError(
            f"the prompt has {prompt.size} tokens but the model's context holds {n_positions}; "
            "shorten it, or keep its end with --on-overflow shift"
        )


def _steps(
    session: GenerationSession,
    rows: list[_Row],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    eos_token_ids: frozenset[int],
) -> Iterator[GenerationStep]:
    next_token = make_sampler(options)

    def advance(row: _Row, logits: NDArray[np.float32]) -> GenerationStep:
        token = next_token(logits, row.history, row.rng)
        row.history.append(token)
        row.tokens_left -= 1
        text = "" if token in eos_token_ids else row.text.push(token)
        reason = finish_reason(row, token)
        if reason is not None and reason != "stop":
            text += row.text.finish()
        row.finished = reason is not None
        scored = None
        if options.logprobs is not None:
            scored = chosen_logprob(logits, token, options.logprobs, tokenizer)
        return GenerationStep(row.index, token, text, reason, scored)

    def finish_reason(row: _Row, token: int) -> FinishReason | None:
        if token in eos_token_ids:
            return "eos"
        if row.text.stopped:
            return "stop"
        if row.tokens_left == 0:
            return "length"
        if options.on_overflow == "stop" and _is_full(session, row):
            return "context"
        return None

    def advance_by_lookup(row: _Row) -> Iterator[GenerationStep]:
        """One step, or several if guesses of what comes next are right."""
        before = session.length(row.index)
        most = min(row.tokens_left - 1, session.n_positions - before - 2)
        guesses = lookup.guess(row.history, most)
        tokens = np.array([row.history[-1], *guesses], dtype=np.int64)
        if not guesses:
            yield advance(row, session.decode([row.index], tokens)[0])
            return
        steps: list[GenerationStep] = []
        for guess, logits in zip([*guesses, None], session.extend(row.index, tokens), strict=True):
            steps.append(advance(row, logits))
            if row.finished or steps[-1].token != guess:
                break
        session.truncate(row.index, before + len(steps))
        lookup.learn(len(guesses), len(steps) - 1)
        yield from steps

    lookup = DraftTokens()
    # One row's history at a time; what is drawn at random is seldom guessed.
    is_greedy = options.greedy or options.temperature == 0
    is_guessing = options.lookup and is_greedy and len(rows) == 1
    for row in rows:
        yield advance(row, _refill(session, row))
    while rows := [row for row in rows if not row.finished]:
        if is_guessing and not _is_full(session, rows[0]):
            yield from advance_by_lookup(rows[0])
            continue
        full = [row for row in rows if _is_full(session, row)]
        ready = [row for row in rows if not _is_full(session, row)]
        if ready:
            tokens = np.array([row.history[-1] for row in ready], dtype=np.int64)
            batch = session.decode([row.index for row in ready], tokens)  # [len(ready), vocab]
            for row, logits in zip(ready, batch, strict=True):
                yield advance(row, logits)
        for row in full:
            yield advance(row, _refill(session, row))


def _is_full(session: GenerationSession, row: _Row) -> bool:
    return session.length(row.index) >= session.n_positions


def _refill(session: GenerationSession, row: _Row) -> NDArray[np.float32]:
    """Fill the row's cache anew; return the logits [vocab] after its last token.

    Of a history longer than the context the newest half of a context stays. It has to be
    computed again: GPT-2's positions are learned and absolute, and are part of every cached key
    and value, so those cannot be moved to an earlier position.
    """
    tokens = row.history
    if len(tokens) > session.n_positions:
        tokens = tokens[-max(1, session.n_positions // 2) :]
    session.reset(row.index)
    return session.prefill(row.index, np.array(tokens, dtype=np.int64))
