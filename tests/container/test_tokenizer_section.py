"""The tokenizer section and what a header says about it."""

import zlib

import pytest
from small_tokenizer import VOCAB_SIZE, train_tokenizer

from rbe_cli.container import tokenizer_section
from rbe_cli.container.tokenizer_section import TokenizerFacts, pack_tokenizer, unpack_tokenizer
from rbe_cli.errors import CheckpointError, PayloadError


def test_it_is_one_zlib_stream() -> None:
    json = b'{"model": {}}' * 50
    packed = pack_tokenizer(json)
    assert zlib.decompress(packed) == json
    assert len(packed) <= len(zlib.compress(json, level=9))
    assert unpack_tokenizer(memoryview(packed)) == json


def test_the_limit_holds_for_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_section, "TOKENIZER_LIMIT", 1000)
    assert unpack_tokenizer(memoryview(pack_tokenizer(bytes(1000)))) == bytes(1000)
    with pytest.raises(CheckpointError, match=r"of 1001 bytes is over the limit of 1000$"):
        pack_tokenizer(bytes(1001))
    with pytest.raises(PayloadError, match="decompresses to more than 1000 bytes"):
        unpack_tokenizer(memoryview(zlib.compress(bytes(1001))))


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"\0"])
def test_a_part_of_a_stream_and_more_than_one_are_refused(spoil) -> None:
    with pytest.raises(PayloadError, match="is not one whole zlib stream"):
        unpack_tokenizer(memoryview(spoil(zlib.compress(b"{}"))))


def test_bytes_of_no_stream_are_refused() -> None:
    with pytest.raises(PayloadError, match="the tokenizer does not decompress: "):
        unpack_tokenizer(memoryview(b"no stream"))


def test_facts_of_a_tokenizer() -> None:
    facts = TokenizerFacts.of_json(train_tokenizer(), "not said of one that is there")
    assert facts == TokenizerFacts("BPE", VOCAB_SIZE, None)
    assert facts.extras == {"tokenizer_kind": "BPE", "tokenizer_tokens": VOCAB_SIZE}


def test_facts_of_none() -> None:
    assert TokenizerFacts.of_json(None, "it is of no use").missing == "it is of no use"
    assert TokenizerFacts.of_json(None, None) == TokenizerFacts(missing="the checkpoint has none")
    assert TokenizerFacts(missing="it").extras == {"tokenizer_missing": "it"}


def test_bytes_that_are_no_tokenizer_are_refused() -> None:
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        TokenizerFacts.of_json(b"{}", None)


@pytest.mark.parametrize("facts", [TokenizerFacts("BPE", 7), TokenizerFacts(missing="why")])
def test_facts_go_through_a_provenance(facts: TokenizerFacts) -> None:
    assert TokenizerFacts.of_provenance(facts.extras, facts.missing is None) == facts


def test_a_provenance_may_hold_anything_of_them() -> None:
    strange = {"tokenizer_kind": 3, "tokenizer_tokens": "many", "tokenizer_missing": 0.5}
    assert TokenizerFacts.of_provenance(strange, True) == TokenizerFacts()
    assert TokenizerFacts.of_provenance(strange, False).missing == "the checkpoint has none"
    assert TokenizerFacts.of_provenance({}, True) == TokenizerFacts()
    # Where a section is stored, what is said to be missing does not count, and the reverse.
    both = {"tokenizer_kind": "BPE", "tokenizer_tokens": 3, "tokenizer_missing": "why"}
    assert TokenizerFacts.of_provenance(both, True) == TokenizerFacts("BPE", 3)
    assert TokenizerFacts.of_provenance(both, False) == TokenizerFacts(missing="why")
