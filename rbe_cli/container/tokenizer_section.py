"""Encode and decode the tokenizer section: `tokenizer.json` compressed with zlib (RFC 1950)."""

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rbe_cli.checkpoint.tokenizers_library import library_errors
from rbe_cli.errors import CheckpointError, PayloadError

NO_TOKENIZER = "the checkpoint has none"
_PREFIX = "tokenizer_"
TOKENIZER_LIMIT = 64 << 20  # bytes of the decompressed json


def pack_tokenizer(json: bytes) -> bytes:
    """Compress a `tokenizer.json` to the bytes of the section.

    Raises:
        CheckpointError: the json is larger than `TOKENIZER_LIMIT`.
    """
    if len(json) > TOKENIZER_LIMIT:
        raise CheckpointError(
            f"a tokenizer.json of {len(json)} bytes is over the limit of {TOKENIZER_LIMIT}"
        )
    return zlib.compress(json, level=9)


def unpack_tokenizer(section: memoryview) -> bytes:
    """Decompress the section to the json, and stop at `TOKENIZER_LIMIT` bytes.

    Raises:
        PayloadError: the section is not one whole zlib stream, or decompresses to more bytes
            than the limit.
    """
    stream = zlib.decompressobj()
    try:
        json = stream.decompress(section, TOKENIZER_LIMIT + 1)
    except zlib.error as error:
        raise PayloadError(f"the tokenizer does not decompress: {error}") from error
    if len(json) > TOKENIZER_LIMIT:
        raise PayloadError(f"the tokenizer decompresses to more than {TOKENIZER_LIMIT} bytes")
    if not stream.eof or stream.unused_data:
        raise PayloadError("the tokenizer section is not one whole zlib stream")
    return json


@dataclass(frozen=True)
class TokenizerFacts:
    """What a file says about its tokenizer: the extras of the provenance named `tokenizer_...`.

    Attributes:
        kind: the model of the tokenizer: `BPE`, `Unigram`, `WordPiece` or `WordLevel`. It is
            None if the file has no tokenizer or does not state the kind.
        tokens: the size of its vocabulary; None in the same cases as `kind`.
        missing: why there is no tokenizer, as a text; None if there is one.
    """

    kind: str | None = None
    tokens: int | None = None
    missing: str | None = None

    @classmethod
    def of_json(cls, json: bytes | None, missing: str | None) -> "TokenizerFacts":
        """Read the facts from a `tokenizer.json`, or note why there is none.

        Raises:
            CheckpointError: the json is not a tokenizer.
        """
        if json is None:
            return cls(missing=missing or NO_TOKENIZER)
        from tokenizers import Tokenizer

        with library_errors(CheckpointError, "the tokenizer cannot be read"):
            tokenizer = Tokenizer.from_buffer(json)
            return cls(type(tokenizer.model).__name__, tokenizer.get_vocab_size())

    @classmethod
    def of_provenance(cls, extra: Mapping[str, object], is_stored: bool) -> "TokenizerFacts":
        """Read the facts from the extras of a provenance. Older files have none."""
        kind, tokens, missing = (
            extra.get(_PREFIX + name) for name in ("kind", "tokens", "missing")
        )
        if not is_stored:
            return cls(missing=missing if isinstance(missing, str) else NO_TOKENIZER)
        return cls(
            kind if isinstance(kind, str) else None, tokens if isinstance(tokens, int) else None
        )

    @property
    def extras(self) -> dict[str, str | int]:
        """Return the facts as extras of a provenance, without those that are None."""
        return {_PREFIX + name: value for name, value in asdict(self).items() if value is not None}
