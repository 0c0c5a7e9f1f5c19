"""The rules of a SentencePiece model, one by one, with tiny models of a few pieces."""

import pytest

from rbe_cli.checkpoint.tokenizer.sentence_piece import SENTENCE_PIECE_CLASSES, sentence_piece
from rbe_cli.checkpoint.tokenizer.sentence_piece_model import (
    Algorithm,
    Piece,
    PieceType,
    SentencePieceModel,
)
from rbe_cli.checkpoint.tokenizer.tokenizer_settings import (
    TokenizerSettings,
    UnsupportedTokenizerError,
)

NORMAL, UNKNOWN, CONTROL, BYTE = (
    PieceType.NORMAL,
    PieceType.UNKNOWN,
    PieceType.CONTROL,
    PieceType.BYTE,
)
START = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]


def pieces(*texts, start=START):
    """Return pieces whose scores fall, so that the first are the best."""
    kinds = [*start, *((text, NORMAL) for text in texts)]
    return tuple(Piece(text, -0.1 * n, kind) for n, (text, kind) in enumerate(kinds))


def model(*texts, **changes):
    fields = {
        "pieces": pieces(*texts), "algorithm": Algorithm.UNIGRAM, "byte_fallback": False,
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "charsmap": b"", "add_dummy_prefix": True,
        "remove_extra_whitespaces": True, "escape_whitespaces": True, "space_is_suffix": False,
    }  # fmt: skip
    return SentencePieceModel(**fields | changes)


def built(own, class_name=None, vocab_size=300, **options):
    settings = TokenizerSettings(class_name, options, {}, (), {})
    return sentence_piece(own, settings, vocab_size)


def tokens(tokenizer, text):
    return tokenizer.encode(text).tokens


@pytest.mark.parametrize("class_name", [None, *SENTENCE_PIECE_CLASSES])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": Algorithm.WORD}, "is a SentencePiece model of whole words"),
        ({"space_is_suffix": True}, "is a SentencePiece model with spaces after words"),
    ],
)
def test_what_cannot_be_imitated_is_refused(class_name, changes, message):
    with pytest.raises(UnsupportedTokenizerError, match=message):
        built(model("a", **changes), class_name)


def test_a_text_begins_with_a_space_and_spaces_are_unified():
    tokenizer = built(model("▁", "a", "b", "▁a"))
    assert tokens(tokenizer, "a  b ") == ["▁a", "▁", "b"]
    assert tokens(tokenizer, " a") == ["▁a"]
    assert tokenizer.decode(tokenizer.encode("a b").ids) == "a b"


def test_spaces_may_be_kept():
    tokenizer = built(model("▁", "a", remove_extra_whitespaces=False))
    assert tokens(tokenizer, " a  a ") == ["▁", "▁", "a", "▁", "▁", "a", "▁"]


def test_a_text_may_begin_as_it_is():
    tokenizer = built(model("▁", "a", add_dummy_prefix=False))
    assert tokens(tokenizer, "a a") == ["a", "▁", "a"]
    assert tokenizer.decode(tokenizer.encode("a a").ids) == "a a"


def test_spaces_may_stay_spaces():
    own = model(" ", "a", add_dummy_prefix=False, escape_whitespaces=False)
    assert tokens(built(own), "a a") == ["a", " ", "a"]


def test_legacy_puts_one_space_before_the_whole_text():
    own = model("▁", "a", remove_extra_whitespaces=False)
    assert tokens(built(own, legacy=False), " a") == ["▁", "a"]
    assert tokens(built(own, legacy=True), " a") == ["▁", "▁", "a"]


def test_pieces_of_the_user_are_never_cut():
    start = [*START, ("ab", PieceType.USER_DEFINED), ("abc", PieceType.USER_DEFINED)]
    own = model(pieces=pieces("▁", "a", "b", "c", "bc", start=start))
    assert tokens(built(own), "abcab") == ["▁", "abc", "ab"]


@pytest.mark.parametrize("algorithm", [Algorithm.BPE, Algorithm.CHAR])
def test_bpe_merges_in_the_order_of_scores(algorithm):
    own = model("bc", "ab", "▁", "a", "b", "c", algorithm=algorithm)
    expected = ["▁", "a", "bc"] if algorithm is Algorithm.BPE else ["▁", "a", "b", "c"]
    assert tokens(built(own), "abc") == expected
    assert built(own).encode("z").ids[-1] == 0


def test_bytes_stand_for_unknown_characters():
    start = [*START, *((f"<0x{byte:02X}>", BYTE) for byte in range(256))]
    own = model(pieces=pieces("▁", "a", start=start), byte_fallback=True)
    tokenizer = built(own)
    assert tokens(tokenizer, "aé") == ["▁", "a", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("aé").ids) == "aé"


def test_control_symbols_that_are_spelled_out_are_one_id():
    assert built(model("▁", "a")).encode("a<s>a").ids.count(1) == 1


def test_albert():
    tokenizer = built(model("▁a", "▁b", '"'), "AlbertTokenizer")
    assert tokens(tokenizer, "Á ``")[:2] == ["[CLS]", "▁a"]
    assert tokens(tokenizer, "b")[-1] == "[SEP]"
    cased = built(model("▁A"), "AlbertTokenizer", do_lower_case=False)
    assert "▁A" in tokens(cased, "Á")
    kept = built(model("▁á"), "AlbertTokenizer", keep_accents=True)
    assert "▁á" in tokens(kept, "Á")


@pytest.mark.parametrize(
    ("options", "vocab_size", "extra"),
    [
        ({}, 300, 100), ({"extra_ids": 3}, 300, 3), ({"extra_ids": 0}, 300, 0),
        ({"extra_ids": "7"}, 300, 100), ({}, 10, 5), ({}, 5, 0), ({}, 2, 0),
    ],
)  # fmt: skip
def test_t5_has_extra_ids_at_the_end_of_the_vocabulary(options, vocab_size, extra):
    tokenizer = built(model("▁", "a"), "T5Tokenizer", vocab_size, **options)
    count = options.get("extra_ids", 100)
    highest = count - 1 if isinstance(count, int) else 99
    assert [tokenizer.token_to_id(f"<extra_id_{highest - n}>") for n in range(extra)] == list(
        range(5, 5 + extra)
    )
    assert tokenizer.token_to_id(f"<extra_id_{highest - extra}>") is None
    assert tokens(tokenizer, "a") == ["▁", "a", "</s>"]


def test_xlm_roberta_has_four_tokens_before_the_pieces():
    tokenizer = built(model("▁a", "b"), "XLMRobertaTokenizer")
    ids = [tokenizer.token_to_id(own) for own in ("<s>", "<pad>", "</s>", "<unk>", "▁a", "b")]
    assert ids == [0, 1, 2, 3, 4, 5]
    assert tokenizer.token_to_id("<mask>") == 6
    assert tokens(tokenizer, "ab") == ["<s>", "▁a", "b", "</s>"]
    assert tokenizer.encode("z").ids[1:-1].count(3) >= 1


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({}, "▁a"),
        ({"legacy": True}, "▁a"),
        ({"add_prefix_space": False}, "a"),
        ({"add_bos_token": True}, "<s>"),
    ],
)
def test_llama_puts_before_a_text_what_its_settings_say(options, first):
    tokenizer = built(model("▁a", "▁", "a"), "LlamaTokenizer", **options)
    assert tokens(tokenizer, "a a")[0] == first
    text = tokenizer.decode(tokenizer.encode("a a").ids)
    assert text.removeprefix("<s>").strip() == "a a"


def test_gpt_sw3_cleans_a_text_first():
    tokenizer = built(model("▁", "a", "é"), "GPTSw3Tokenizer")
    assert tokens(tokenizer, "a\u200b\u2003a") == tokens(tokenizer, "a a")
    assert tokens(tokenizer, "e\u0301") == tokens(tokenizer, "é")


def test_albert_s_quotes_and_spaces():
    own = model("▁", '"', "a", "▁a")
    assert tokens(built(own, "AlbertTokenizer"), "``a''")[1:-1] == ["▁", '"', "a", '"']
    for prefix, first in ((True, "▁a"), (False, "a")):
        tokenizer = built(own, "AlbertTokenizer", add_prefix_space=prefix)
        assert tokens(tokenizer, "a")[1] == first
        assert tokenizer.decode(tokenizer.encode("a").ids) == "a"
    tokenizer = built(own, "AlbertTokenizer", add_prefix_space=False)
    assert tokenizer.decoder.decode(["▁a", "▁a"]) == " a a"


def test_gpt_sw3_has_its_own_special_tokens():
    start = [("<pad>", CONTROL), ("<unk>", UNKNOWN), ("<s>", CONTROL), ("<|endoftext|>", CONTROL)]
    own = model(pieces=pieces("▁", "a", start=start), unk_id=1)
    tokenizer = built(own, "GPTSw3Tokenizer")
    added = tokenizer.get_added_tokens_decoder()
    assert {number: token.content for number, token in added.items()} == {
        0: "<pad>", 1: "<unk>", 2: "<s>", 3: "<|endoftext|>",
    }  # fmt: skip
