"""Text to token ids and back, through the `tokenizers` library."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rbe_cli.checkpoint.tokenizer_limits import check_tokenizer_json
from rbe_cli.checkpoint.tokenizers_library import encode, library_errors
from rbe_cli.errors import BadFileError, CheckpointError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tokenizer:
    """Turns text to the ids of a model and back, as its `tokenizer.json` says.

    Args:
        tokenizer_json: the file's bytes.
        vocab_size: ids the model knows. The tokenizer may name more (padding, say) as long as
            no text needs them.

    Raises:
        BadFileError: the bytes are not a tokenizer, or one that is far too large for the model.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int) -> None:
        import tokenizers

        try:
            check_tokenizer_json(tokenizer_json, vocab_size)
        except CheckpointError as error:
            raise BadFileError(str(error)) from error
        with library_errors(BadFileError, "the tokenizer cannot be read"):
            self.backend = tokenizers.Tokenizer.from_buffer(tokenizer_json)
            # Training settings that some files carry; they would cut or pad what is encoded.
            self.backend.no_truncation()
            self.backend.no_padding()
            self._byte_tokens = self._find_byte_tokens()
        self._vocab_size = vocab_size

    def _find_byte_tokens(self) -> frozenset[int]:
        """Return the tokens that stand for single bytes."""
        if self.backend.decoder is None:
            return frozenset()
        state = json.loads(self.backend.decoder.__getstate__())
        parts = [state, *state.get("decoders", ())]
        if not any(part["type"] == "ByteFallback" for part in parts):
            return frozenset()
        ids = (self.backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token for token in ids if token is not None)

    @property
    def has_byte_tokens(self) -> bool:
        """Whether some tokens are single bytes (SentencePiece's byte fallback)."""
        return bool(self._byte_tokens)

    def ends_in_bytes(self, tokens: Sequence[int]) -> bool:
        """Return whether the last token is a single byte, which a byte after it would join."""
        for token in reversed(tokens):
            if token in self._byte_tokens:
                return True
            if self.backend.id_to_token(token) is not None:  # what has no token has no text
                return False
        return False

    def encode(self, text: str) -> "NDArray[np.int64]":
        """Return token ids `[n]`, with what the file's post-processor adds (for GPT-2 nothing).

        Raises:
            UsageError: the text is not valid Unicode.
            BadFileError: the tokenizer gives an id that the model does not know, fails, or takes
                too long, as a malicious regular expression does.
        """
        import numpy as np

        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the text is not valid Unicode (a lone surrogate)") from error
        with library_errors(BadFileError, "the tokenizer cannot encode the text"):
            ids = encode(self.backend, text)
        tokens = np.array(ids, dtype=np.int64)
        if tokens.size and tokens.max() >= self._vocab_size:
            raise BadFileError(
                f"the tokenizer does not belong to this model: it gives the id {tokens.max()}, "
                f"but the model's vocabulary has {self._vocab_size} tokens"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ids.

        Special tokens give their names, and ids without a token give nothing.

        Bytes that are not UTF-8 become U+FFFD.

        Raises:
            BadFileError: the file's decoder fails.
        """
        with library_errors(BadFileError, "the tokenizer cannot decode its tokens"):
            return self.backend.decode(tokens, skip_special_tokens=False)

    def stream(self, context: Sequence[int] = ()) -> "TokenStream":
        """Return a stream for the tokens that follow `context`."""
        return TokenStream(self, context)

    def decode_after(self, context: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text of `tokens` as it reads after those of `context`.

        Many tokenizers drop the space before the first word of a text. A word that follows
        others keeps its space.
        """
        stream = self.stream(context)
        return "".join([stream.push(token) for token in tokens]) + stream.finish()

    def token_text(self, token: int) -> str:
        """Return the text of one token, as it reads after another token.

        So a token that begins a word keeps its space, whatever the kind of tokenizer. Bytes
        that are not a whole character give U+FFFD, and an id without a token gives nothing.

        Raises:
            BadFileError: the file's decoder fails.
        """
        return self.decode_after([token], [token])


class TokenStream:
    """Decodes tokens that come one at a time, and gives text in whole characters.

    The text is that which the tokens add to a context. The bytes of a character may be spread
    over several tokens; they are held back until the character is whole. All pieces together
    are what `Tokenizer.decode` gives for the context and all tokens, without the context's text.
    """

    # A window of so many tokens is cut to its end, so that each step decodes few tokens.
    _WINDOW = 32

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = self._without_whole_bytes(list(context))
        self._shown = tokenizer.decode(self._window)  # the window's text that is known already
        self._cut = 0  # where the window may be cut: all before is shown, and text follows
        self._next_cut = len(self._window)

    def push(self, token: int) -> str:
        """Return the text that this token completes, often its own, sometimes none.

        Raises:
            BadFileError: the file's decoder fails.
        """
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        settled = self._settled(text)
        piece = self._show(settled)
        if settled == text and piece.strip():
            self._cut, self._next_cut = self._next_cut, len(self._window)
            if len(self._window) > self._WINDOW:
                self._shorten()
        return piece

    def finish(self) -> str:
        """Return what is still held back; bytes that form no character become U+FFFD."""
        return self._show(self._tokenizer.decode(self._window))

    def _show(self, text: str) -> str:
        """Return what `text` adds to the text that is known, which it usually begins with."""
        known = _common_prefix(self._shown, text)
        if len(text) > known:
            self._shown = text
        return text[known:]

    def _settled(self, text: str) -> str:
        """Return the beginning of the window's text that no further token can change."""
        if self._tokenizer.has_byte_tokens:
            # One wrong byte makes U+FFFD of all byte tokens in a row, so a row must end first.
            return self._shown if self._tokenizer.ends_in_bytes(self._window) else text
        # In UTF-8 only the last character can be incomplete.
        return text.removesuffix("\ufffd")

    def _shorten(self) -> None:
        """Forget the window's tokens before the last that were shown."""
        del self._window[: self._cut]
        self._shown = self._tokenizer.decode(self._window)
        self._cut, self._next_cut = 0, len(self._window)

    def _without_whole_bytes(self, context: list[int]) -> list[int]:
        """Drop byte tokens at the end of a context if they form whole characters.

        Otherwise a wrong byte after them would make U+FFFD of them too.
        """
        if self._tokenizer.decode(context).endswith("\ufffd"):
            return context
        end = len(context)
        while self._tokenizer.ends_in_bytes(context[:end]):
            end -= 1
        return context[:end] or context


def _common_prefix(first: str, second: str) -> int:
    """Return the length of the text that both begin with."""
    if second.startswith(first):
        return len(first)
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
