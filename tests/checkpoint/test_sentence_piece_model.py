"""The parser of SentencePiece models: real models, and bytes that are none."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.checkpoint.tokenizer.sentence_piece_model import (
    Algorithm,
    PieceType,
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
