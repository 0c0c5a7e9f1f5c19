"""Sections that lie. Offsets are not stored, so only sizes and contents can."""

import zlib
from typing import Any

import pytest

from rbe_cli.container.tokenizer_section import TOKENIZER_LIMIT
from rbe_cli.errors import (
    ChecksumError,
    GeometryError,
    HeaderError,
    PayloadError,
    TruncatedError,
)


def test_negative_size(forgery: Any) -> None:
    forgery.set_matrix_size(0, -64)
    forgery.is_refused(HeaderError, "Expected `int` >= 1")


def test_size_zero(forgery: Any) -> None:
    forgery.set_matrix_size(0, 0)
    forgery.is_refused(HeaderError, "Expected `int` >= 1")


def test_size_that_wraps_64_bits(forgery: Any) -> None:
    forgery.set_matrix_size(0, (1 << 64) - 1)
    forgery.is_refused(TruncatedError, r"the file has \d+ of 1844674407370955\d{4} bytes")


def test_sizes_whose_sum_wraps_64_bits(forgery: Any) -> None:
    forgery.set_matrix_size(0, 1 << 63)
    forgery.set_matrix_size(1, 1 << 63)
    forgery.is_refused(TruncatedError, r"the file has \d+ of 1844674407370955\d{4} bytes")


def test_last_section_past_the_end(forgery: Any) -> None:
    forgery.tokenizer[0] += 1
    forgery.is_refused(TruncatedError, r"the file has \d+ of \d+ bytes")


def test_last_section_before_the_end(forgery: Any) -> None:
    forgery.tokenizer[0] -= 1
    forgery.is_refused(GeometryError, "1 bytes follow the last section")


def test_bytes_after_the_end(forgery: Any) -> None:
    forgery.tail = b"extra"
    forgery.is_refused(GeometryError, "5 bytes follow the last section")


def test_section_over_its_neighbour(forgery: Any) -> None:
    # 64 bytes more, and as many at the end, so that the end of the file is right.
    forgery.set_matrix_size(0, len(forgery.payloads["wte.weight"]) + 64)
    forgery.tail = bytes(64)
    forgery.is_refused(GeometryError, r"the padding before section '\S+' is not zero")


def test_message_in_the_padding(forgery: Any) -> None:
    forgery.padding = b"!"
    forgery.is_refused(GeometryError, r"the padding before section 'wte\.weight' is not zero")


def test_sections_of_equal_size_exchanged(forgery: Any) -> None:
    payloads, one, other = forgery.payloads, "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight"
    payloads[one], payloads[other] = payloads[other], payloads[one]
    forgery.is_refused(ChecksumError, r"section h\.0\.mlp\.c_fc\.weight is damaged")


def test_vectors_of_another_model(forgery: Any) -> None:
    forgery.payloads["vectors"] = bytes(len(forgery.payloads["vectors"]))
    forgery.is_refused(ChecksumError, "section vectors is damaged")


def test_vectors_of_more_bytes_than_their_section(forgery: Any) -> None:
    forgery.codec_versions = {"float16": 1, "float32": 1}
    for vector in forgery.vectors:
        vector[1:] = ["float32", 2 * vector[2]]
    forgery.is_refused(TruncatedError, r"the file has \d+ of \d+ bytes")


@pytest.mark.parametrize(("codec", "size"), [("float16", 7), ("float32", 8), ("scalar", 8)])
def test_vector_that_has_not_the_bytes_of_its_codec(forgery: Any, codec: str, size: int) -> None:
    forgery.codec_versions = {"float16": 1} | {codec: 1}
    forgery.vectors[-1][1:] = [codec, size]
    forgery.is_refused(GeometryError, rf"ln_f\.bias has {size} bytes of {codec}, not \d")


def test_vectors_that_fill_all_memory(forgery: Any) -> None:
    forgery.codec_versions = {"coded": 1, "float16": 1}
    for vector in forgery.vectors:
        vector[1:] = ["coded", 2**64 - 1]
    forgery.is_refused(TruncatedError, r"the file has \d+ of \d+ bytes")


def test_vector_without_bytes(forgery: Any) -> None:
    forgery.codec_versions = {"coded": 1, "float16": 1}
    forgery.vectors[-1][1:] = ["coded", 0]
    forgery.is_refused(HeaderError, "malformed")


def test_tokenizer_bomb(forgery: Any) -> None:
    stream, zeros = zlib.compressobj(), bytes(1 << 20)
    bomb = b"".join(stream.compress(zeros) for _ in range(192)) + stream.flush()
    forgery.set_tokenizer(bomb)
    # zlib collects its output in blocks and joins them: twice the limit, and no more.
    peak = 2 * TOKENIZER_LIMIT + (1 << 20)
    forgery.is_refused(PayloadError, f"decompresses to more than {TOKENIZER_LIMIT}", peak=peak)


def test_tokenizer_that_is_not_zlib(forgery: Any) -> None:
    forgery.set_tokenizer(b"{}")
    forgery.is_refused(PayloadError, "does not decompress")


def test_tokenizer_cut_short(forgery: Any) -> None:
    forgery.set_tokenizer(zlib.compress(b"{}")[:-1])
    forgery.is_refused(PayloadError, "not one whole zlib stream")


def test_bytes_after_the_tokenizer(forgery: Any) -> None:
    forgery.set_tokenizer(zlib.compress(b"{}") + b"hidden")
    forgery.is_refused(PayloadError, "not one whole zlib stream")
