"""Text to token ids and back, through the `tokenizers` library."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import BadFileError, UsageError


class Tokenizer:
    """A `tokenizer.json` beside the model whose ids it must give.

    Args:
        tokenizer_json: the file's bytes.
        vocab_size: ids the model knows. The tokenizer may name more (padding, say) as long as
            no text needs them.

    Raises:
        BadFileError: the bytes are not a tokenizer.
    """

    def __init__(self, tokenizer_json: bytes, vocab_size: int) -> None:
        import tokenizers

        try:
            self.backend = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:  # the library raises nothing more specific
            raise BadFileError(f"the tokenizer cannot be read: {error}") from error
        # Training settings that some files carry; they would cut or pad what is encoded.
        self.backend.no_truncation()
        self.backend.no_padding()
        self._vocab_size = vocab_size

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids `[n]`, with what the file's post-processor adds (for GPT-2 nothing).

        Raises:
            UsageError: the text is not valid Unicode.
            BadFileError: the tokenizer gives an id that the model does not know.
        """
        try:
            ids = self.backend.encode(text).ids
        except TypeError as error:  # a lone surrogate cannot become a Rust string
            raise UsageError("the text is not valid Unicode (a lone surrogate)") from error
        except Exception as error:
            raise BadFileError(f"the tokenizer cannot encode the text: {error}") from error
        tokens = np.array(ids, dtype=np.int64)
        if tokens.size and tokens.max() >= self._vocab_size:
            raise BadFileError(
                f"the tokenizer does not belong to this model: it gives the id {tokens.max()}, "
                f"but the model's vocabulary has {self._vocab_size} tokens"
            )
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids of the model; special tokens by name, ids without a token as nothing.

        Bytes that are not UTF-8 become U+FFFD.

        Raises:
            BadFileError: the file's decoder fails.
        """
        try:
            return self.backend.decode(tokens, skip_special_tokens=False)
        except Exception as error:
            raise BadFileError(f"the tokenizer cannot decode its tokens: {error}") from error

    def stream(self) -> "TokenStream":
        return TokenStream(self)


class TokenStream:
    """Text of tokens that come one at a time, in whole characters.

    The bytes of a character may be spread over several tokens; they are held back until the
    character is whole. All pieces together are `Tokenizer.decode` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=False)
        self._tokens: list[int] = []
        self._released = 0  # characters

    def push(self, token: int) -> str:
        """The text that this token completes, often its own, sometimes none.

        Raises:
            BadFileError: the file's decoder fails.
        """
        self._tokens.append(token)
        try:
            piece = self._decoder.step(self._tokenizer.backend, token) or ""
        except Exception as error:
            raise BadFileError(f"the tokenizer cannot decode its tokens: {error}") from error
        self._released += len(piece)
        return piece

    def finish(self) -> str:
        """What is still held back: a character cut short becomes U+FFFD."""
        rest = self._tokenizer.decode(self._tokens)[self._released :]
        self._released += len(rest)
        return rest
