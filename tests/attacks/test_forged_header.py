"""Headers that lie: in their length, types, config, codecs and names."""

from typing import Any

import pytest
from msgspec.msgpack import encode

from rbe_cli.errors import ChecksumError, GeometryError, HeaderError, TruncatedError, VersionError


def test_unchanged_it_is_valid(forgery: Any) -> None:
    assert forgery.read(forgery.build()) < 1 << 20


def test_version_of_the_far_future(forgery: Any) -> None:
    forgery.version = 0xFFFFFFFF
    forgery.is_refused(VersionError, r"a newer rbe wrote this file \(format version 4294967295\)")


def test_version_0(forgery: Any) -> None:
    forgery.version = 0
    forgery.is_refused(VersionError, r"the file is too old \(format version 0\)")


def test_newer_file_whose_header_has_another_form(forgery: Any) -> None:
    """It is too new, not damaged: nothing after the version is read."""
    forgery.version = 3
    data = bytearray(forgery.build(b"no msgpack at all", header_bytes=0xFFFFFFFF))
    data[16:24] = bytes(8)
    forgery.is_refused(VersionError, "a newer rbe wrote this file", data=bytes(data))


def test_length_of_4_gib(forgery: Any) -> None:
    data = forgery.build(header_bytes=0xFFFFFFFF)
    forgery.is_refused(HeaderError, "4294967295 bytes is over the limit", data=data)


def test_length_beyond_the_file(forgery: Any) -> None:
    data = forgery.build(header_bytes=16 << 20)
    forgery.is_refused(TruncatedError, "inside its header", data=data)


def test_length_into_the_sections(forgery: Any) -> None:
    data = forgery.build(header_bytes=len(forgery.encoded_header) + 1)
    forgery.is_refused(ChecksumError, "header is damaged", data=data)


# Types and counts


def test_no_bytes(forgery: Any) -> None:
    forgery.is_refused(HeaderError, "truncated", data=forgery.build(b""))


def test_map_instead_of_array(forgery: Any) -> None:
    data = forgery.build(encode({"config": forgery.config}))
    forgery.is_refused(HeaderError, "Expected `array`, got `object`", data=data)


def test_one_field_too_many(forgery: Any) -> None:
    data = forgery.build(encode([*forgery.header, b"hidden"]))
    forgery.is_refused(HeaderError, "at most length 7", data=data)


def test_one_field_too_few(forgery: Any) -> None:
    data = forgery.build(encode(forgery.header[:-1]))
    forgery.is_refused(HeaderError, "at least length 7", data=data)


def test_bytes_after_the_value(forgery: Any) -> None:
    data = forgery.build(forgery.encoded_header + b"\xc0")
    forgery.is_refused(HeaderError, "trailing", data=data)


def test_nesting_of_a_million_arrays(forgery: Any) -> None:
    data = forgery.build(b"\x97" + b"\x91" * (1 << 20))
    forgery.is_refused(HeaderError, "malformed", data=data)


def test_four_billion_matrices(forgery: Any) -> None:
    start = b"".join(encode(field) for field in forgery.header[:3])
    data = forgery.build(b"\x97" + start + b"\xdd\xff\xff\xff\xff")
    forgery.is_refused(HeaderError, "length <= 32768", data=data)


def test_a_million_vectors(forgery: Any) -> None:
    forgery.vectors = [["v", "float16", 8]] * (1 << 20)
    forgery.is_refused(HeaderError, "length <= 65536")


def test_a_million_notes(forgery: Any) -> None:
    forgery.provenance[-1] = {str(index): None for index in range(1 << 20)}
    forgery.is_refused(HeaderError, "length <= 256")


def test_source_of_a_mebibyte(forgery: Any) -> None:
    forgery.provenance[0] = "a" * (1 << 20)
    forgery.is_refused(HeaderError, "length <= 4096")


def test_text_that_is_not_utf8(forgery: Any) -> None:
    data = forgery.build(forgery.encoded_header.replace(b"demo", b"d\xff\xfeo"))
    forgery.is_refused(HeaderError, "(?i)utf-8", data=data)


def test_key_twice(forgery: Any) -> None:
    twice = b"\x82" + encode({"kl": 0.5})[1:] + encode({"kl": 0.7})[1:]
    data = forgery.build(forgery.encoded_header.replace(encode({"kl": 0.5}), twice))
    forgery.is_refused(HeaderError, "not in the canonical form", data=data)


def test_number_in_a_longer_form(forgery: Any) -> None:
    short = encode({"float16": 1})
    data = forgery.build(forgery.encoded_header.replace(short, short[:-1] + b"\xcc\x01"))
    forgery.is_refused(HeaderError, "not in the canonical form", data=data)


# Config


def test_no_heads(forgery: Any) -> None:
    forgery.config["n_head"] = 0
    forgery.is_refused(HeaderError, "n_head = 0 is not between")


def test_heads_that_do_not_divide_the_embedding(forgery: Any) -> None:
    forgery.config["n_head"] = 3
    forgery.is_refused(HeaderError, "n_embd = 4 is not a multiple of n_head = 3")


def test_embedding_of_2_to_the_63(forgery: Any) -> None:
    forgery.config["n_embd"] = 1 << 63
    forgery.is_refused(HeaderError, "n_embd = 9223372036854775808 is not between")


def test_largest_embedding_that_a_config_may_have(forgery: Any) -> None:
    forgery.config |= {"vocab_size": 1 << 24, "n_embd": 1 << 16}
    forgery.is_refused(GeometryError, "wte.weight has 56 bytes of float16, not 2199023255552")


def test_vocabulary_of_one_more_row_than_stored(forgery: Any) -> None:
    forgery.config["vocab_size"] = 8
    forgery.is_refused(GeometryError, "wte.weight has 56 bytes of float16, not 64")


def test_negative_layers(forgery: Any) -> None:
    forgery.config["n_layer"] = -1
    forgery.is_refused(HeaderError, "n_layer = -1 is not between")


def test_thousands_of_layers_of_which_one_is_there(forgery: Any) -> None:
    forgery.config["n_layer"] = 4096
    forgery.is_refused(HeaderError, r"'h\.1\.attn\.c_attn\.weight' is missing")


def test_fractional_vocabulary(forgery: Any) -> None:
    forgery.config["vocab_size"] = 7.5
    forgery.is_refused(HeaderError, "Expected `int`, got `float`")


def test_epsilon_that_is_not_a_number(forgery: Any) -> None:
    forgery.config["layer_norm_epsilon"] = float("nan")
    forgery.is_refused(HeaderError, "layer_norm_epsilon = nan")


def test_end_token_outside_the_vocabulary(forgery: Any) -> None:
    forgery.config["eos_token_id"] = 7
    forgery.is_refused(HeaderError, "eos_token_id = 7 is outside")


@pytest.mark.parametrize("ids", [[], [3], [3, 3]])
def test_end_tokens_in_another_form_than_the_shortest(forgery: Any, ids: list[int]) -> None:
    forgery.config["eos_token_id"] = ids
    forgery.is_refused(HeaderError, "a list of eos_token_id holds two ids or more")


def test_a_list_with_an_end_token_outside_the_vocabulary(forgery: Any) -> None:
    forgery.config["eos_token_id"] = [3, 7]
    forgery.is_refused(HeaderError, "eos_token_id = 7 is outside")


def test_terminal_escape_in_an_unknown_key(forgery: Any) -> None:
    forgery.config["\x1b[2J"] = 1
    forgery.is_refused(HeaderError, r"unknown field `\\x1b\[2J`")


def test_terminal_escape_in_the_activation(forgery: Any) -> None:
    forgery.config["activation_function"] = "\x1b]0;owned\x07"
    forgery.is_refused(HeaderError, r"Invalid enum value .*x1b\]0;owned.*x07")


# Codecs


def test_unknown_codec(forgery: Any) -> None:
    forgery.codec_versions["zip\n"] = 1
    forgery.is_refused(VersionError, r"codec 'zip\\n', which this rbe does not know; if a newer")


def test_unknown_codec_version(forgery: Any) -> None:
    forgery.codec_versions["float16"] = 2
    newer = r"a newer rbe wrote this file \(codec float16 version 2\); this one reads version 1"
    forgery.is_refused(VersionError, newer)


@pytest.mark.parametrize("version", [1, 0, -1])
def test_codec_version_that_is_too_old(forgery: Any, version: int) -> None:
    forgery.codec_versions["fixed"] = version
    older = rf"the file is too old \(codec fixed version {version}\); this rbe reads version 2"
    forgery.is_refused(VersionError, older)


def test_codec_without_a_version(forgery: Any) -> None:
    forgery.codec_versions = {}
    forgery.is_refused(
        HeaderError, r"the codecs \['float16'\], but the header gives versions of \[\]"
    )


def test_version_of_a_codec_that_is_not_used(forgery: Any) -> None:
    forgery.codec_versions["ectcq"] = 1
    forgery.is_refused(HeaderError, r"but the header gives versions of \['ectcq', 'float16'\]")


def test_vector_in_a_codec_of_matrices(forgery: Any) -> None:
    forgery.codec_versions["ectcq"] = 1
    forgery.vectors[-1][1] = "ectcq"
    forgery.is_refused(HeaderError, r"vector 'ln_f\.bias' has the codec ectcq")


@pytest.mark.parametrize("codec", ["coded", "scalar"])
def test_matrix_in_a_codec_of_vectors(forgery: Any, codec: str) -> None:
    forgery.codec_versions = {codec: 1, "float16": 1}
    forgery.matrices[0][1] = codec
    forgery.is_refused(
        HeaderError, rf"matrix 'wte\.weight' has the codec {codec}, which takes vectors only"
    )


# Names


def test_matrix_twice(forgery: Any) -> None:
    forgery.matrices.append(forgery.matrices[0])
    forgery.is_refused(HeaderError, r"'wte\.weight' occurs 2 times among the matrices")


def test_vector_twice(forgery: Any) -> None:
    forgery.vectors.append(forgery.vectors[-1])
    forgery.is_refused(HeaderError, r"'ln_f\.bias' occurs 2 times among the vectors")


def test_matrix_missing(forgery: Any) -> None:
    del forgery.matrices[1]
    forgery.is_refused(HeaderError, r"'wpe\.weight' is missing among the matrices")


def test_vector_missing(forgery: Any) -> None:
    del forgery.vectors[0]
    forgery.is_refused(HeaderError, r"'h\.0\.ln_1\.weight' is missing among the vectors")


def test_head_although_it_is_tied(forgery: Any) -> None:
    forgery.matrices.append(["lm_head.weight", "float16", 56, bytes(8)])
    forgery.is_refused(HeaderError, r"'lm_head\.weight' among the matrices is not a tensor")


def test_head_missing_although_it_is_not_tied(forgery: Any) -> None:
    forgery.config["tie_word_embeddings"] = False
    forgery.is_refused(HeaderError, r"'lm_head\.weight' is missing among the matrices")


def test_path_and_terminal_escape_as_a_name(forgery: Any) -> None:
    forgery.vectors.append(["../../\x1b[0m", "float16", 8])
    forgery.is_refused(HeaderError, r"'\.\./\.\./\\x1b\[0m' among the vectors is not a tensor")


def test_matrix_among_the_vectors(forgery: Any) -> None:
    forgery.vectors.append(["wte.weight", "float16", 56])
    forgery.is_refused(HeaderError, r"'wte\.weight' among the vectors is not a tensor")


def test_matrix_named_like_another_section(forgery: Any) -> None:
    forgery.matrices.append(["tokenizer", "float16", 56, bytes(8)])
    forgery.is_refused(HeaderError, "'tokenizer' among the matrices is not a tensor")
