"""Read a SentencePiece model: a protocol buffer of pieces and their rules.

The numbers of fields and types are those of sentencepiece_model.proto (Kudo and Richardson,
2018). Only the fields that decide ids and texts are read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from rbe_cli.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of the model

MAX_SENTENCE_PIECE_BYTES = 1 << 24  # models of 256,000 pieces have 5 MB
_MAX_CHARACTERS = 1 << 22  # of all pieces together
_MAX_PIECE = 500  # characters of a piece; a BPE is searched for each way to cut it
_MAX_FIELDS = 1000  # of a message within the model

Field = int | bytes


class PieceType(IntEnum):
    """List the kinds of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """List the ways in which a text is cut into pieces."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class Piece:
    """Describe one token; its id is its place in the model."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """Hold a model as it is stored.

    Attributes:
        pieces: in the order of their ids.
        algorithm: how a text is cut.
        byte_fallback: whether unknown characters become byte pieces.
        unk_id, bos_id, eos_id: of the special pieces; -1 if there is none.
        charsmap: compiled rules that normalise characters; empty for none.
        add_dummy_prefix: whether a space is put before each text.
        remove_extra_whitespaces: whether spaces at the ends and repeated ones are dropped.
        escape_whitespaces: whether a space becomes U+2581.
        space_is_suffix: whether a word's space stands at its end.
    """

    pieces: tuple[Piece, ...]
    algorithm: Algorithm
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    space_is_suffix: bool


def parse_sentence_piece(data: bytes, max_pieces: int) -> SentencePieceModel:
    """Parse the bytes of a `.model` file.

    Raises:
        CheckpointError: they are not a SentencePiece model, or one of more than `max_pieces`.
    """
    try:
        return _model(data, max_pieces)
    except (ValueError, IndexError, struct.error, TypeError) as error:
        raise CheckpointError(f"it is not a SentencePiece model: {error}") from error


def _model(data: bytes, max_pieces: int) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Field] = {}
    normalizer: dict[int, Field] = {}
    for number, value in _fields(data, max_pieces + _MAX_FIELDS):
        if number == _PIECES:
            pieces.append(_piece(_message(value)))
        elif number == _TRAINER:
            trainer = _message(value)
        elif number == _NORMALIZER:
            normalizer = _message(value)
    if not pieces:
        raise ValueError("it has no pieces")
    lengths = [len(piece.text) for piece in pieces]
    if len(pieces) > max_pieces or sum(lengths) > _MAX_CHARACTERS or max(lengths) > _MAX_PIECE:
        raise ValueError("it has too many pieces, or too long ones")
    return SentencePieceModel(
        pieces=tuple(pieces),
        algorithm=Algorithm(_signed(trainer.get(3, Algorithm.UNIGRAM))),
        byte_fallback=bool(trainer.get(35, 0)),
        unk_id=_signed(trainer.get(40, 0)),
        bos_id=_signed(trainer.get(41, 1)),
        eos_id=_signed(trainer.get(42, 2)),
        charsmap=_as_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
        space_is_suffix=bool(trainer.get(24, 0)),
    )


def _piece(fields: dict[int, Field]) -> Piece:
    (score,) = struct.unpack("<f", _as_bytes(fields.get(2, bytes(4))))
    text = _as_bytes(fields[1]).decode() if 1 in fields else ""
    return Piece(text, score, PieceType(_signed(fields.get(3, PieceType.NORMAL))))


def _message(value: Field) -> dict[int, Field]:
    """Return the last value of each field of a message."""
    return dict(_fields(_as_bytes(value), _MAX_FIELDS))


def _fields(data: bytes, most: int) -> Iterator[tuple[int, Field]]:
    """Yield the number and value of each field, at most so many; fixed sizes stay bytes."""
    place = 0
    while place < len(data):
        most -= 1
        if most < 0:
            raise ValueError("it has too many fields")
        key, place = _varint(data, place)
        wire_type = key & 7
        value: Field
        if wire_type == _VARINT:
            value, place = _varint(data, place)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type)
            if wire_type == _BYTES:
                size, place = _varint(data, place)
            if size is None:
                raise ValueError(f"unknown wire type {wire_type}")
            if place + size > len(data):
                raise ValueError("it ends too early")
            value, place = data[place : place + size], place + size
        yield key >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, and the place after it."""
    value = 0
    for index in range(10):
        byte = data[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, place + index + 1
    raise ValueError("a number is too long")


def _as_bytes(value: Field) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has the wrong type")
    return value


def _signed(value: Field) -> int:
    """Return a number whose negative values are stored in 64 bits."""
    if not isinstance(value, int):
        raise ValueError("a field has the wrong type")
    return value - (1 << 64) if value >= 1 << 63 else value
