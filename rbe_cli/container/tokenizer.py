"""The tokenizer section: `tokenizer.json`, compressed with zlib (RFC 1950)."""

import zlib

from rbe_cli.errors import CheckpointError, PayloadError

TOKENIZER_LIMIT = 64 << 20  # bytes of the json


def pack_tokenizer(json: bytes) -> bytes:
    """The section's bytes.

    Raises:
        CheckpointError: the json is larger than `TOKENIZER_LIMIT`.
    """
    if len(json) > TOKENIZER_LIMIT:
        raise CheckpointError(
            f"a tokenizer.json of {len(json)} bytes is over the limit of {TOKENIZER_LIMIT}"
        )
    return zlib.compress(json, level=9)


def unpack_tokenizer(section: memoryview) -> bytes:
    """The json, decompressed no further than `TOKENIZER_LIMIT` whatever the section holds.

    Raises:
        PayloadError: the section is not one whole zlib stream, or decompresses to more.
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
