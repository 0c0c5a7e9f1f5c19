"""The generation loop: prefill each row, then decode all rows that go on, one token at a time."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import UsageError
from rbe_cli.text.draft_tokens import DraftTokens
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.logprobs import ChosenLogprob, chosen_logprob
from rbe_cli.text.row_random import RowRandom
from rbe_cli.text.sampling import make_sampler
from rbe_cli.text.streaming import TextStream
from rbe_cli.text.tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length", "context"]


class GenerationSession(Protocol):
    """What the loop needs of a model: logits, and one KV cache for each row.

    Several generations may use one session at once, from one thread or from several: each
    borrows rows of its own.
    """

    @property
    def n_positions(self) -> int:
        """Tokens a row's cache can hold."""

    @property
    def vocab_size(self) -> int:
        """Logits a token."""

    def borrow_rows(self, count: int) -> AbstractContextManager[Sequence[int]]:
        """Lend `count` empty rows to one generation, until the context is left."""

    def length(self, row: int) -> int:
        """Return the number of tokens in the row's cache."""

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
    """Describes one new token.

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
    """A prompt and what it was continued with so far."""

    index: int  # of the prompt
    history: list[int]  # the prompt and what was generated; the cache holds its end
    tokens_left: int
    rng: RowRandom
    text: TextStream
    place: int = -1  # the session's row that is lent to it
    finished: bool = False


def generate(
    session: GenerationSession,
    prompts: Sequence[NDArray[np.int64]],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    eos_token_ids: Collection[int],
) -> Iterator[GenerationStep]:
    """Continue every prompt `[n]`, each in a row of the session that is lent to it.

    Rows are independent: a row's tokens follow from its prompt, the options, the seed and its
    index alone. Steps of different rows alternate in no promised order. The checks are made at
    the call, the work while iterating. Whoever stops half-way closes or drops the iterator,
    which gives the rows back.

    Args:
        session: the model; others may use it at the same time.
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
        raise UsageError("`stop` needs a tokenizer, and this model has none")
    rows = [
        _Row(
            index,
            prompt.tolist(),
            options.max_tokens,
            RowRandom(options.seed, index),
            TextStream(tokenizer, options.stop, prompt.tolist()),
        )
        for index, prompt in enumerate(prompts)
    ]
    return _Loop(session, options, tokenizer, frozenset(eos_token_ids)).run(rows)


def _check_prompt(prompt: NDArray[np.int64], n_positions: int, options: GenerationOptions) -> None:
    """Refuse a prompt that cannot be continued; errors as of `generate`."""
    if prompt.size == 0:
        raise UsageError("the prompt is empty: there is nothing to continue")
    if prompt.size > n_positions and options.on_overflow == "stop":
        raise UsageError(
            f"the prompt has {prompt.size} tokens but the model's context holds {n_positions}; "
            "shorten it, or keep its end with `on_overflow` shift"
        )


class _Loop:
    """Runs one generation: all its rows, from the prompts to their ends."""

    def __init__(
        self,
        session: GenerationSession,
        options: GenerationOptions,
        tokenizer: Tokenizer | None,
        eos_token_ids: frozenset[int],
    ) -> None:
        """Take the arguments of `generate`, which are checked."""
        self._session = session
        self._options = options
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._next_token = make_sampler(options)

    def run(self, rows: list[_Row]) -> Iterator[GenerationStep]:
        """Yield the steps of all rows."""
        # Draft tokens follow one row's history, and what is drawn at random seldom equals them.
        is_greedy = self._options.greedy or self._options.temperature == 0
        drafts = DraftTokens() if self._options.lookup and is_greedy and len(rows) == 1 else None
        with self._session.borrow_rows(len(rows)) as places:
            for row, place in zip(rows, places, strict=True):
                row.place = place
            for row in rows:
                yield self._advance(row, self._refill(row))
            while rows := [row for row in rows if not row.finished]:
                if drafts is not None and not self._is_full(rows[0]):
                    yield from self._advance_by_drafts(rows[0], drafts)
                else:
                    yield from self._advance_all(rows)

    def _advance_all(self, rows: Sequence[_Row]) -> Iterator[GenerationStep]:
        """Yield one step of each row; those with room are decoded together."""
        full = [row for row in rows if self._is_full(row)]
        ready = [row for row in rows if not self._is_full(row)]
        if ready:
            tokens = np.array([row.history[-1] for row in ready], dtype=np.int64)
            batch = self._session.decode([row.place for row in ready], tokens)
            for row, logits in zip(ready, batch, strict=True):
                yield self._advance(row, logits)
        for row in full:
            yield self._advance(row, self._refill(row))

    def _advance_by_drafts(self, row: _Row, drafts: DraftTokens) -> Iterator[GenerationStep]:
        """Yield one step of a row, or several if draft tokens are accepted."""
        session, before = self._session, self._session.length(row.place)
        most = min(row.tokens_left - 1, session.n_positions - before - 2)
        drafted = drafts.propose(row.history, most)
        tokens = np.array([row.history[-1], *drafted], dtype=np.int64)
        if not drafted:
            yield self._advance(row, session.decode([row.place], tokens)[0])
            return
        steps: list[GenerationStep] = []
        for draft, logits in zip([*drafted, None], session.extend(row.place, tokens), strict=True):
            steps.append(self._advance(row, logits))
            if row.finished or steps[-1].token != draft:
                break
        session.truncate(row.place, before + len(steps))
        drafts.learn(len(drafted), len(steps) - 1)
        yield from steps

    def _advance(self, row: _Row, logits: NDArray[np.float32]) -> GenerationStep:
        """Choose a row's next token from the logits `[vocab]`, and return the step."""
        token = self._next_token(logits, row.history, row.rng)
        row.history.append(token)
        row.tokens_left -= 1
        text = "" if token in self._eos_token_ids else row.text.push(token)
        reason = self._finish_reason(row, token)
        if reason is not None and reason != "stop":
            text += row.text.finish()
        row.finished = reason is not None
        scored = None
        if self._options.logprobs is not None:
            scored = chosen_logprob(logits, token, self._options.logprobs, self._tokenizer)
        return GenerationStep(row.index, token, text, reason, scored)

    def _finish_reason(self, row: _Row, token: int) -> FinishReason | None:
        """Return why a row ends with `token`; None if it goes on."""
        if token in self._eos_token_ids:
            return "eos"
        if row.text.stopped:
            return "stop"
        if row.tokens_left == 0:
            return "length"
        if self._options.on_overflow == "stop" and self._is_full(row):
            return "context"
        return None

    def _is_full(self, row: _Row) -> bool:
        """Return whether a row's cache has no position left."""
        return self._session.length(row.place) >= self._session.n_positions

    def _refill(self, row: _Row) -> NDArray[np.float32]:
        """Fill the row's cache anew; return the logits `[vocab]` after its last token.

        Of a history longer than the context the newest half of a context stays. It has to be
        computed again: GPT-2's positions are learned and absolute, and are part of every cached
        key and value, so those cannot be moved to an earlier position.
        """
        tokens = row.history
        if len(tokens) > self._session.n_positions:
            tokens = tokens[-max(1, self._session.n_positions // 2) :]
        self._session.reset(row.place)
        return self._session.prefill(row.place, np.array(tokens, dtype=np.int64))
