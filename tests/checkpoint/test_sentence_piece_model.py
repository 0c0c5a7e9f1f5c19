"""The parser of SentencePiece models: real models, and bytes that are none."""

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.checkpoint.tokenizer.sentence_piece_model import (
    Algorithm,
    Piece,
    PieceType,
    SentencePieceModel,
    parse_sentence_piece,
)
from rbe_cli.errors import CheckpointError

MOST = 10_000
MODELS = Path(__file__).parent / "fixtures" / "sentence_piece"


def model_bytes(name: str) -> bytes:
    return (MODELS / f"{name}.model").read_bytes()


def test_pieces_and_rules_are_read() -> None:
    model = parse_sentence_piece(model_bytes("unigram_symbols"), MOST)
    assert [piece.text for piece in model.pieces[:6]] == [
        "<unk>",
        "<s>",
        "</s>",
        "<sep>",
        "<x>",
        "the ca",
    ]
    assert [piece.type for piece in model.pieces[:6]] == [
        PieceType.UNKNOWN,
        *[PieceType.CONTROL] * 3,
        *[PieceType.USER_DEFINED] * 2,
    ]
    assert model.pieces[8].score < 0
    assert (model.unk_id, model.bos_id, model.eos_id) == (0, 1, 2)
    assert model.algorithm is Algorithm.UNIGRAM
    assert model.charsmap
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces) == (True, True)
    assert not model.byte_fallback


def test_rules_that_differ_from_the_defaults_are_read() -> None:
    model = parse_sentence_piece(model_bytes("unigram_spaces_kept"), MOST)
    assert (model.add_dummy_prefix, model.remove_extra_whitespaces) == (False, False)
    model = parse_sentence_piece(model_bytes("bpe_bytes"), MOST)
    assert (model.algorithm, model.byte_fallback) == (Algorithm.BPE, True)
    assert sum(piece.type is PieceType.BYTE for piece in model.pieces) == 256
    assert parse_sentence_piece(model_bytes("unigram_t5"), MOST).bos_id == -1


def field(number: int, value: int | bytes) -> bytes:
    """Return a field of a message: a number below 128, or bytes below that length."""
    if isinstance(value, int):
        return bytes([8 * number, value])
    return bytes([8 * number + 2, len(value)]) + value


PIECE = field(1, field(1, b"a"))


def test_what_is_not_stored_has_its_default() -> None:
    model = parse_sentence_piece(PIECE, MOST)
    assert model == SentencePieceModel(
        pieces=(Piece("a", 0.0, PieceType.NORMAL),),
        algorithm=Algorithm.UNIGRAM,
        byte_fallback=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        charsmap=b"",
        add_dummy_prefix=True,
        remove_extra_whitespaces=True,
        escape_whitespaces=True,
        space_is_suffix=False,
    )


def test_every_field_is_read_by_its_number() -> None:
    score = b"\x15" + struct.pack("<f", -1.5)
    unknown = field(9, 3) + b"\x51" + bytes(8)  # a number, and eight bytes
    piece = field(1, field(1, "é".encode()) + score + field(3, 4) + unknown)
    trainer = b"".join(field(*own) for own in ((3, 2),))
    two_bytes = {24: 1, 35: 1, 40: 3, 41: 0, 42: 5}  # their keys take two bytes
    for number, value in two_bytes.items():
        trainer += bytes([8 * number & 127 | 128, 8 * number >> 7, value])
    normalizer = field(2, b"map") + field(3, 0) + field(4, 0) + field(5, 0)
    model = parse_sentence_piece(piece + PIECE + field(2, trainer) + field(3, normalizer), MOST)
    assert model == SentencePieceModel(
        pieces=(Piece("é", -1.5, PieceType.USER_DEFINED), Piece("a", 0.0, PieceType.NORMAL)),
        algorithm=Algorithm.BPE,
        byte_fallback=True,
        unk_id=3,
        bos_id=0,
        eos_id=5,
        charsmap=b"map",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        escape_whitespaces=False,
        space_is_suffix=True,
    )


def test_numbers_may_be_negative() -> None:
    minus_one = b"\xff" * 9 + b"\x01"
    trainer = bytes([8 * 40 & 127 | 128, 8 * 40 >> 7]) + minus_one
    assert parse_sentence_piece(PIECE + field(2, trainer), MOST).unk_id == -1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no pieces"),
        (field(2, b""), "it has no pieces"),
        (PIECE + b"\x80" * 10, "a number is too long"),
        (PIECE + b"\x80", "index out of range"),
        (PIECE + field(1, 5), "a field has the wrong type"),
        (PIECE + field(2, field(3, b"x")), "a field has the wrong type"),
        (PIECE + field(2, field(3, 9)), "9 is not a valid Algorithm"),
        (field(1, field(1, b"a") + field(3, 0)), "0 is not a valid PieceType"),
        (field(1, field(1, b"\xff")), "can't decode byte 0xff"),
        (field(1, field(2, b"abc")), "requires a buffer of 4 bytes"),
        (field(1, field(1, 7)), "a field has the wrong type"),
        (PIECE + b"\x0b", "unknown wire type 3"),
        (PIECE + b"\x0e", "unknown wire type 6"),
        (PIECE + b"\x0a\x05abcd", "it ends too early"),
        (PIECE + b"\x0d\x00\x00\x00", "it ends too early"),
        (PIECE + b"\x09" + bytes(7), "it ends too early"),
    ],
)
def test_bytes_that_are_none_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^it is not a SentencePiece model: .*{message}"):
        parse_sentence_piece(content, MOST)


@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(data: st.DataObject) -> None:
    whole = model_bytes("char")
    start = data.draw(st.integers(0, len(whole)))
    damage = data.draw(st.binary(max_size=8))
    content = whole[:start] + damage + whole[start + len(damage) :]
    content = content[: data.draw(st.integers(0, len(content)))]
    pieces: tuple[object, ...] = ("refused",)
    with suppress(CheckpointError):
        pieces = parse_sentence_piece(content, MOST).pieces
    assert pieces


@pytest.mark.parametrize(
    "content",
    [b"\x0a\x00" * 20_000, b"\x0a\x05\x0a\x03abc" * 10_001, b"\x12\xa0\x1f" + b"\x08\x01" * 2000],
    ids=["pieces", "one piece too many", "fields"],
)
def test_very_many_parts_are_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"too many (pieces|fields)"):
        parse_sentence_piece(content, MOST)


def test_a_piece_of_very_many_characters_is_refused() -> None:
    piece = b"\x0a\xf5\x03" + b"x" * 501
    content = b"\x0a" + bytes([0x80 | len(piece) & 0x7F, len(piece) >> 7]) + piece
    with pytest.raises(CheckpointError, match="too long ones"):
        parse_sentence_piece(content, MOST)


@pytest.mark.parametrize("length", [1, 100, 1000])
def test_a_model_that_ends_too_early_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError, match="not a SentencePiece model: it ends too early"):
        parse_sentence_piece(model_bytes("char")[:-length], MOST)


@pytest.mark.parametrize("count", [5, 6])
def test_as_many_pieces_as_are_allowed_are_read(count: int) -> None:
    content = PIECE * count + field(2, b"") * 500
    if count == 5:
        assert len(parse_sentence_piece(content, 5).pieces) == 5
    else:
        with pytest.raises(CheckpointError, match="it has too many pieces"):
            parse_sentence_piece(content, 5)


def test_kinds_have_the_numbers_of_the_format() -> None:
    kinds = {own.name: own.value for own in PieceType}
    assert kinds == {
        "NORMAL": 1, "UNKNOWN": 2, "CONTROL": 3, "USER_DEFINED": 4, "UNUSED": 5, "BYTE": 6,
    }  # fmt: skip
    ways = {own.name: own.value for own in Algorithm}
    assert ways == {"UNIGRAM": 1, "BPE": 2, "WORD": 3, "CHAR": 4}
