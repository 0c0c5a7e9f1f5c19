"""Define files that break one rule of docs/FORMAT.md each, and keep all others.

A case is a function that changes a `Forgery`, or returns the file's bytes. Its name in `CASES`
begins with the number of the rule.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from attacks.forged_file import Forgery, digest
from golden.golden_matrices import classic, in_codec, trellis
from msgspec.msgpack import encode

from rbe_cli.codec.vectors.coded_vector import encode_vector

Case = Callable[[Forgery], bytes | None]
Change = Callable[[bytearray], bytes | None]
WTE = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
"""`wte.weight`, transposed, of a forged model."""
FLOAT_INF, FLOAT_NAN = struct.pack("<f", np.inf), struct.pack("<f", np.nan)


def setting(**fields: Any) -> Case:
    """Change attributes of the forgery."""
    return lambda own: own.__dict__.update(fields)


def configured(**keys: Any) -> Case:
    """Change keys of the config."""
    return lambda own: own.config.update(keys)


def encoded(change: Callable[[bytes], bytes]) -> Case:
    """Change the bytes of the header."""
    return lambda own: own.build(change(own.encoded_header))


def replaced(old: Any, new: bytes) -> Case:
    """Put bytes in the place of a value in the header."""
    return encoded(lambda header: header.replace(encode(old), new, 1))


def whole(change: Callable[[bytes], bytes]) -> Case:
    """Change the bytes of the file."""
    return lambda own: change(own.build())


def of_matrix(field: int, value: Any, index: int = 0) -> Case:
    """Change a field of a matrix: 0 is its name, 2 the number of its bytes."""

    def change(own: Forgery) -> None:
        own.matrices[index][field] = value

    return change


def of_provenance(field: int, value: Any) -> Case:
    """Change a field of the provenance: 0 is the source, 6 the extras."""

    def change(own: Forgery) -> None:
        own.provenance[field] = value

    return change


def with_count(field: int, count: bytes) -> Case:
    """End the header after the count of an array, which is one of its fields."""

    def change(own: Forgery) -> bytes:
        before = b"".join(encode(value) for value in own.header[:field])
        return own.build(b"\x97" + before + count)

    return change


def without_epsilon(own: Forgery) -> None:
    """Leave a key of the config out."""
    del own.config["layer_norm_epsilon"]


def with_sorted_config(own: Forgery) -> None:
    """Give the keys of the config another order."""
    own.config = dict(sorted(own.config.items()))


def without_matrix(own: Forgery) -> None:
    """Leave the last matrix out."""
    del own.matrices[-1]


def without_vector(own: Forgery) -> None:
    """Leave the last vector out."""
    del own.vectors[-1]


def with_tied_head(own: Forgery) -> None:
    """List a head although it is tied."""
    own.matrices.append(["lm_head.weight", "float16", 56, bytes(8)])


def with_rotation(version: int) -> Case:
    """Give a file of this version a rotation."""

    def change(own: Forgery) -> None:
        own.matrices.append(["rotation.weight", "float16", 16, bytes(8)])
        own.version = version

    return change


def of_one_dimension(own: Forgery) -> None:
    """Rotate a residual stream of one dimension."""
    with_rotation(2)(own)
    own.config |= {"n_embd": 1, "n_head": 1}


def with_sizes_over_64_bits(own: Forgery) -> None:
    """Claim so many bytes that their sum does not fit 64 bits."""
    own.set_matrix_size(0, (1 << 64) - 1)
    own.set_matrix_size(1, (1 << 64) - 1)


def with_other_matrix(own: Forgery) -> None:
    """Change the bytes of a matrix, but not its checksum."""
    own.payloads["wte.weight"] = b"\1" * 56


def with_other_vectors(own: Forgery) -> None:
    """Change the bytes of the vectors, but not their checksum."""
    own.payloads["vectors"] = bytes(len(own.payloads["vectors"]))


def without_end(own: Forgery) -> None:
    """Take the last byte of the last section, but not from its size."""
    own.payloads["vectors"] = own.payloads["vectors"][:-1]


def listed_twice(own: Forgery) -> None:
    """List a matrix a second time."""
    own.matrices.append(own.matrices[0])


def matrix(codec: str, payload: bytes, version: int) -> Case:
    """Store `wte.weight` in a codec."""

    def change(own: Forgery) -> None:
        own.payloads["wte.weight"] = payload
        own.matrices[0][1:] = [codec, len(payload), digest(payload)]
        own.codec_versions = {codec: version} | own.codec_versions

    return change


def changed(codec: str, version: int, payload: bytes, change: Change) -> Case:
    """Store `wte.weight` in a codec, with other bytes: those that are changed or returned."""
    data = bytearray(payload)
    return matrix(codec, bytes(change(data) or data), version)


def ectcq(change: Change) -> Case:
    """Store `wte.weight` in `ectcq`, with other bytes."""
    return changed("ectcq", 2, trellis(8, 0.01)(WTE)[1], change)


def fixed(change: Change) -> Case:
    """Store `wte.weight` in `fixed`, with other bytes."""
    return changed("fixed", 2, in_codec("fixed", 4)(WTE)[1], change)


def in_blocks(change: Change) -> Case:
    """Store `wte.weight` in `classic`, with other bytes."""
    return changed("classic", 1, classic("dct", 16, 0.5)(WTE)[1], change)


def vector(codec: str, payload: bytes) -> Case:
    """Store `ln_f.bias`, the last vector, in a codec."""

    def change(own: Forgery) -> None:
        own.payloads["vectors"] = own.payloads["vectors"][:-8] + payload
        own.vectors[-1][1:] = [codec, len(payload)]
        own.vectors_checksum = digest(own.payloads["vectors"])
        own.codec_versions = own.codec_versions | {codec: 1}

    return change


def coded(change: Change) -> Case:
    """Store `ln_f.bias` in `coded`, with other bytes."""
    data = bytearray(encode_vector(np.array([0.1, -0.2, 30.0, 0.4], np.float32), 0.01))
    return vector("coded", bytes(change(data) or data))


def at(place: int, value: bytes) -> Change:
    """Put bytes at a place of the payload."""

    def change(data: bytearray) -> None:
        data[place : place + len(value)] = value

    return change


def longer(data: bytearray) -> bytes:
    """Append a byte to the payload."""
    return bytes(data) + b"\0"


def with_words(count: int) -> Change:
    """Take a word from the end of an `ectcq` payload, or append one."""

    def change(data: bytearray) -> bytes:
        words = int.from_bytes(data[8:12], "little") + count
        data[8:12] = words.to_bytes(4, "little")
        return bytes(data[:-2] if count < 0 else data + b"\1\1")

    return change


def with_tokenizer(section: bytes) -> Case:
    """Add a tokenizer."""
    return lambda own: own.set_tokenizer(section)


def bomb() -> bytes:
    """A zlib stream of one byte more than a tokenizer may have."""
    stream = zlib.compressobj(9)
    return stream.compress(bytes((64 << 20) + 1)) + stream.flush()


def many_integers(own: Forgery) -> None:
    """Claim a block of 4096 x 1024 integers for a payload that holds 28."""
    _, payload = trellis(8)(WTE)
    own.config |= {"n_embd": 4096, "vocab_size": 1024}
    own.codec_versions = {"ectcq": 2, "scalar": 1}
    for own_matrix in own.matrices:
        own_matrix[1:] = ["ectcq", len(payload), digest(payload)]
        own.payloads[str(own_matrix[0])] = payload
    own.payloads["vectors"] = bytes(4 * len(own.vectors))
    own.vectors_checksum = digest(own.payloads["vectors"])
    for own_vector in own.vectors:
        own_vector[1:] = ["scalar", 4]


PREAMBLE: dict[str, Case] = {
    "1.1-empty": lambda own: b"",
    "1.1-ends-inside-the-magic": lambda own: own.build()[:5],
    "1.2-another-magic": whole(lambda data: b"\x89PNG" + data[4:]),
    "1.2-text-mode": whole(lambda data: data.replace(b"\r\n", b"\n")),
    "1.2-short-and-no-magic": lambda own: b"RBE",
    "1.3-ends-inside-the-preamble": lambda own: own.build()[:23],
    "1.4-format-version-3": setting(version=3),
    "1.4-format-version-0": setting(version=0),
    "1.4-format-version-3-of-another-form": lambda own: (
        own.build()[:8] + b"\3\0\0\0" + b"\xff" * 20
    ),
    "1.5-header-over-16-mib": lambda own: own.build(header_bytes=(16 << 20) + 1),
    "1.6-ends-inside-the-header": lambda own: own.build()[:100],
    "1.7-flipped-bit-in-the-header": whole(lambda data: data[:50] + b"!" + data[51:]),
}
HEADER: dict[str, Case] = {
    "2.1-no-bytes": encoded(lambda header: b""),
    "2.1-cut": encoded(lambda header: header[:-1]),
    "2.1-bytes-left": encoded(lambda header: header + b"\xc0"),
    "2.1-extension-type": replaced("demo", b"\xd4\1\1"),
    "2.1-float-of-32-bits": replaced({"kl": 0.5}, b"\x81\xa2kl\xca\x3f\0\0\0"),
    "2.2-field-missing": lambda own: own.build(encode(own.header[:-1])),
    "2.2-field-too-many": lambda own: own.build(encode([*own.header, None])),
    "2.2-key-missing": without_epsilon,
    "2.2-key-too-many": configured(n_ctx=3),
    "2.2-text-for-a-number": configured(n_embd="4"),
    "2.2-float-for-an-integer": configured(vocab_size=7.5),
    "2.2-boolean-for-an-integer": configured(n_layer=True),
    "2.2-integer-for-a-float": configured(layer_norm_epsilon=0),
    "2.2-integer-for-a-boolean": configured(tie_word_embeddings=1),
    "2.2-unknown-activation": configured(activation_function="tanh"),
    "2.2-nil-for-an-array": setting(vectors=None),
    "2.2-no-bytes-of-a-matrix": of_matrix(2, 0),
    "2.2-checksum-of-7-bytes": setting(vectors_checksum=b"1234567"),
    "2.3-text-that-is-not-utf-8": replaced("demo", b"\xa4d\xff\xfeo"),
    "2.3-surrogate": replaced("demo", b"\xa3\xed\xa0\x80"),
    "2.3-empty-name": of_provenance(6, {"": 1}),
    "2.3-name-of-257-characters": of_provenance(6, {"a" * 257: 1}),
    "2.3-text-of-4097-characters": of_provenance(0, "a" * 4097),
    "2.4-65-codec-versions": setting(
        codec_versions={"float16": 1} | {f"codec-{i}": 1 for i in range(64)}
    ),
    "2.4-257-keys-of-extra": of_provenance(6, {str(i): None for i in range(257)}),
    "2.4-32769-matrices": with_count(3, b"\xdc\x80\x01"),
    "2.4-65537-vectors": with_count(4, b"\xdd\x00\x01\x00\x01"),
    "2.5-key-twice": replaced({"kl": 0.5}, b"\x82" + 2 * encode({"kl": 0.5})[1:]),
    "2.5-longer-integer": replaced({"float16": 1}, encode({"float16": 1})[:-1] + b"\xcc\1"),
    "2.5-signed-form": replaced({"float16": 1}, encode({"float16": 1})[:-1] + b"\xd0\1"),
    "2.5-longer-text": replaced("demo", b"\xd9\4demo"),
    "2.5-keys-of-config-in-another-order": with_sorted_config,
    "2.6-no-layers": configured(n_layer=0),
    "2.6-negative-vocabulary": configured(vocab_size=-1),
    "2.6-vocabulary-over-2-to-the-24": configured(vocab_size=(1 << 24) + 1),
    "2.6-positions-over-2-to-the-20": configured(n_positions=(1 << 20) + 1),
    "2.6-embedding-over-2-to-the-16": configured(n_embd=(1 << 16) + 2),
    "2.6-layers-over-2-to-the-12": configured(n_layer=(1 << 12) + 1),
    "2.6-heads-over-2-to-the-12": configured(n_head=(1 << 12) + 1),
    "2.6-inner-over-2-to-the-18": configured(n_inner=(1 << 18) + 1),
    "2.7-heads-do-not-divide-the-embedding": configured(n_head=3),
    "2.8-epsilon-1": configured(layer_norm_epsilon=1.0),
    "2.8-negative-epsilon": configured(layer_norm_epsilon=-1e-5),
    "2.8-epsilon-nan": configured(layer_norm_epsilon=float("nan")),
    "2.9-beginning-outside-the-vocabulary": configured(bos_token_id=7),
    "2.9-end-outside-the-vocabulary": configured(eos_token_id=[3, 7]),
    "2.9-negative-end": configured(eos_token_id=-1),
    "2.10-array-of-one-end": configured(eos_token_id=[3]),
    "2.10-array-of-no-ends": configured(eos_token_id=[]),
    "2.10-end-twice": configured(eos_token_id=[3, 3]),
    "2.11-unknown-codec": setting(codec_versions={"float16": 1, "wavelets": 1}),
    "2.11-newer-codec": setting(codec_versions={"float16": 2}),
    "2.11-older-codec": setting(codec_versions={"fixed": 1, "float16": 1}),
    "2.12-codec-without-a-version": setting(codec_versions={}),
    "2.12-codec-that-is-not-used": setting(codec_versions={"ectcq": 2, "float16": 1}),
    "2.13-matrix-in-a-codec-of-vectors": matrix("scalar", bytes(4), 1),
    "2.13-vector-in-a-codec-of-matrices": vector("ectcq", bytes(8)),
    "2.14-name-twice": listed_twice,
    "2.14-name-missing": without_matrix,
    "2.14-vector-missing": without_vector,
    "2.14-head-although-it-is-tied": with_tied_head,
    "2.14-no-head-although-it-is-not-tied": configured(tie_word_embeddings=False),
    "2.14-version-2-without-a-rotation": setting(version=2),
    "2.14-version-1-with-a-rotation": with_rotation(1),
    "2.14-rotation-of-one-dimension": of_one_dimension,
    "2.14-layer-with-a-leading-zero": of_matrix(0, "h.00.attn.c_attn.weight", index=2),
    "2.15-float16-of-too-few-bytes": of_matrix(2, 54),
    "2.15-float32-of-too-few-bytes": vector("float32", bytes(8)),
    "2.15-scalar-of-8-bytes": vector("scalar", bytes(8)),
}
SECTIONS: dict[str, Case] = {
    "3.1-last-section-cut": without_end,
    "3.1-size-of-2-to-the-64": with_sizes_over_64_bits,
    "3.2-bytes-after-the-end": setting(tail=b"\0"),
    "3.3-message-in-the-padding": setting(padding=b"!"),
    "3.4-flipped-bit-in-a-matrix": with_other_matrix,
    "3.4-flipped-bit-in-the-vectors": with_other_vectors,
    "4.1-tokenizer-that-is-not-zlib": with_tokenizer(b"{}"),
    "4.1-tokenizer-cut": with_tokenizer(zlib.compress(b"{}")[:-1]),
    "4.1-bytes-after-the-tokenizer": with_tokenizer(zlib.compress(b"{}") + b"!"),
    "4.2-tokenizer-over-64-mib": with_tokenizer(bomb()),
}
PAYLOADS: dict[str, Case] = {
    "8.1-words-end-too-early": ectcq(with_words(-1)),
    "8.1-words-of-a-vector-end-too-early": coded(lambda data: bytes(data[:-2])),
    "8.2-word-left": ectcq(with_words(1)),
    "8.2-word-of-a-vector-left": coded(lambda data: bytes(data) + b"\1\1"),
    "8.3-unused-lane-with-another-state": ectcq(at(12 + 12 + 4 * 31, b"\1\0\1\0")),
    "9.1-one-byte": in_blocks(lambda data: b"\x10"),
    "9.2-blocks-of-15": in_blocks(at(0, b"\x0f\0")),
    "9.2-blocks-of-257": in_blocks(at(0, b"\1\1")),
    "9.3-byte-left": in_blocks(longer),
    "9.3-surface-cut": in_blocks(lambda data: bytes(data[:30])),
    "9.4-transform-3": in_blocks(at(2, b"\3")),
    "9.5-places-that-do-not-ascend": in_blocks(at(37, b"\5\0\5\0")),
    "9.5-place-outside-the-block": in_blocks(at(37 + 2 * 6, struct.pack("<H", 28))),
    "9.6-factor-nan": in_blocks(at(5, FLOAT_NAN)),
    "9.6-coefficient-infinite": in_blocks(at(37 + 2 * 7, FLOAT_INF)),
    "10.1-13-bytes": coded(lambda data: bytes(data[:13])),
    "10.1-odd-number-of-bytes": coded(longer),
    "10.2-offset-nan": coded(at(0, FLOAT_NAN)),
    "10.3-step-0": coded(at(4, bytes(4))),
    "10.3-negative-step": coded(at(4, struct.pack("<f", -1))),
    "10.4-value-infinite": coded(at(4, struct.pack("<f", 3e38))),
    "11.1-8-bytes": ectcq(lambda data: bytes(data[:8])),
    "11.2-step-0": ectcq(at(0, bytes(4))),
    "11.2-step-infinite": ectcq(at(0, FLOAT_INF)),
    "11.3-9-states": ectcq(at(4, b"\x09")),
    "11.4-order-2": ectcq(at(5, b"\2")),
    "11.5-resolution-8": ectcq(at(6, b"\x08\0")),
    "11.6-byte-left": ectcq(longer),
    "11.6-more-words-than-bytes": ectcq(at(8, b"\xff\xff\xff\xff")),
    "11.7-more-integers-than-words-can-code": many_integers,
    "11.8-steps-too-large": ectcq(at(0, struct.pack("<f", 1e35))),
    "12.1-byte-left": fixed(longer),
    "12.2-unit-0": fixed(lambda data: bytes(data[:-4]) + bytes(4)),
    "12.2-unit-nan": fixed(lambda data: bytes(data[:-4]) + FLOAT_NAN),
    "12.3-steps-too-large": fixed(lambda data: bytes(data[:-4]) + struct.pack("<f", 3e38)),
    "13.1-float16-infinite": matrix("float16", b"\0\x7c" + bytes(54), 1),
    "13.1-float16-nan-in-a-vector": vector("float16", b"\1\x7c" + bytes(6)),
    "14.1-float32-nan": matrix("float32", FLOAT_NAN + bytes(108), 1),
    "15.1-scalar-infinite": vector("scalar", FLOAT_INF),
}
CASES = PREAMBLE | HEADER | SECTIONS | PAYLOADS
"""By name of the file."""
