"""GPT-2's tokenizer in the metadata of a GGUF file: what is read, and what has no form there."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
from small_tokenizer import VOCAB_SIZE, train_tokenizer
from tokenizers import Tokenizer

from rbe_cli.checkpoint.gguf.gguf_tokenizer import ReadTokenizer, read_tokenizer, to_gguf
from rbe_cli.errors import CheckpointError, UsageError
from rbe_cli.model.config import Gpt2Config

END = "<|endoftext|>"
JSON = json.loads(train_tokenizer())
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def config(vocab_size=VOCAB_SIZE, **changes):
    sizes = {"n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_inner": 4}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return Gpt2Config(vocab_size=vocab_size, **sizes | ids | changes)


def metadata(**changes):
    """Return the metadata of a small tokenizer, some changed; None leaves a key out."""
    stored = to_gguf(json.dumps(JSON).encode(), config())
    found: dict[str, Any] = {"model": "gpt2", "pre": "gpt-2", "token_type": stored.kinds}
    found |= {"tokens": stored.tokens, "merges": stored.merges} | changes
    return {f"tokenizer.ggml.{key}": own for key, own in found.items() if own is not None}


def ids(found, text):
    return Tokenizer.from_buffer(found.json).encode(text).ids


def test_the_ids_of_a_text_stay():
    text = f"The quick brown fox{END} jumps"
    expected = Tokenizer.from_str(json.dumps(JSON)).encode(text).ids
    assert ids(read_tokenizer(metadata(), VOCAB_SIZE), text) == expected
    for split in (None, "default", "gpt-2", "phi-2", "jina-v2-de"):
        assert ids(read_tokenizer(metadata(pre=split), VOCAB_SIZE), text) == expected


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_a_file_may_have_none(kind):
    assert read_tokenizer(metadata(model=kind), VOCAB_SIZE) == ReadTokenizer(None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "llama"}, r"\(llama with gpt-2\)"),
        ({"model": "bert", "pre": None}, r"\(bert\)"),
        ({"pre": "qwen2"}, r"\(gpt2 with qwen2\)"),
    ],
)
def test_one_of_another_kind_is_left_out(changes, named):
    found = read_tokenizer(metadata(**changes), VOCAB_SIZE)
    assert found.json is None
    [note] = found.notes
    assert note == (
        f"its tokenizer {named} is not GPT-2's, and is left out: the model takes ids only"
    ).replace("\\", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "has no tokens, or merges that are not texts"),
        ({"merges": "a b"}, "has no tokens, or merges that are not texts"),
        ({"token_type": "1"}, "its types of tokens are not numbers"),
        ({"token_type": [True] * VOCAB_SIZE}, "its types of tokens are not numbers"),
        ({"token_type": [1]}, f"it has {VOCAB_SIZE} tokens, but 1 types of tokens"),
        ({"merges": ["no such"]}, "its tokenizer cannot be built: "),
        ({"add_bos_token": True}, "every text is to get a bos token, and there is none"),
        ({"add_eos_token": True, "eos_token_id": VOCAB_SIZE}, "to get a eos token, and there"),
        ({"add_eos_token": True, "eos_token_id": -1}, "to get a eos token, and there is none"),
        ({"add_eos_token": True, "eos_token_id": True}, "to get a eos token, and there is none"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(metadata(**changes), VOCAB_SIZE)


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({"add_bos_token": True, "bos_token_id": 5}, [5], []),
        ({"add_eos_token": True, "eos_token_id": 0}, [], [0]),
        ({"add_eos_token": True, "eos_token_id": VOCAB_SIZE - 1}, [], [VOCAB_SIZE - 1]),
        ({"add_bos_token": True, "bos_token_id": 5, "add_eos_token": True, "eos_token_id": 6},
         [5], [6]),
        ({"add_bos_token": 1, "bos_token_id": 5}, [], []),  # a number is no yes
    ],
)  # fmt: skip
def test_every_text_gets_the_tokens_that_it_is_to_get(changes, before, after):
    plain = ids(read_tokenizer(metadata(), VOCAB_SIZE), "quick")
    assert ids(read_tokenizer(metadata(**changes), VOCAB_SIZE), "quick") == [
        *before,
        *plain,
        *after,
    ]


def test_kinds_of_tokens():
    stored = to_gguf(json.dumps(JSON).encode(), config())
    assert stored.tokens[0] == END
    assert stored.kinds == [CONTROL] + [NORMAL] * (VOCAB_SIZE - 1)
    kinds = [*stored.kinds]
    kinds[300 - 1], kinds[300 - 2] = USER_DEFINED, UNUSED
    found = read_tokenizer(metadata(token_type=kinds, merges=[]), VOCAB_SIZE)
    tokenizer = Tokenizer.from_buffer(found.json)
    added = tokenizer.get_added_tokens_decoder()
    assert {id: own.special for id, own in added.items()} == {0: True, 299: False}
    assert tokenizer.id_to_token(298) is None
    assert tokenizer.id_to_token(297) == stored.tokens[297]


def changed(**changes):
    return json.dumps(JSON | changes).encode()


def model(**changes):
    return changed(model=JSON["model"] | changes)


TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": END, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
}
BEGIN = TEMPLATE["single"][0]
WORDS = {"type": "Whitespace"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(type="Unigram"), "it is not GPT-2's byte-level BPE"),
        (changed(pre_tokenizer=WORDS), "it is not GPT-2's byte-level BPE"),
        (changed(pre_tokenizer=None), "it is not GPT-2's byte-level BPE"),
        (changed(normalizer={"type": "NFC"}), "it changes the text before splitting it"),
        (
            changed(pre_tokenizer=JSON["pre_tokenizer"] | {"add_prefix_space": True}),
            "it does not split a text as GPT-2 does",
        ),
        (
            changed(pre_tokenizer=JSON["pre_tokenizer"] | {"use_regex": False}),
            "it does not split a text as GPT-2 does",
        ),
        (model(byte_fallback=True), "it does not merge tokens as GPT-2 does"),
        (model(ignore_merges=True), "it does not merge tokens as GPT-2 does"),
        (model(end_of_word_suffix="</w>"), "it does not merge tokens as GPT-2 does"),
        (model(continuing_subword_prefix="##"), "it does not merge tokens as GPT-2 does"),
        (model(merges=[]), "it has no merges"),
        (
            changed(post_processor={"type": "BertProcessing"}),
            r"it adds tokens to every text \(BertProcessing\)",
        ),
        (
            changed(post_processor=TEMPLATE | {"single": [BEGIN, BEGIN]}),
            "it adds tokens to every text that are not the model's own",
        ),
        (
            changed(post_processor=TEMPLATE | {"single": [BEGIN, *TEMPLATE["single"]]}),
            "it adds tokens to every text that are not the model's own",
        ),
    ],
)  # fmt: skip
def test_what_gguf_has_no_form_for_is_told(content, message):
    with pytest.raises(UsageError, match=message):
        to_gguf(content, config())


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"[" * 10000, model(merges=3)])
def test_what_is_no_tokenizer_is_refused(content):
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read: "):
        to_gguf(content, config())


def test_a_sequence_of_parts_is_looked_through():
    splits = {"type": "Sequence", "pretokenizers": [JSON["pre_tokenizer"]]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    processors = {"type": "Sequence", "processors": [byte_level, TEMPLATE]}
    found = to_gguf(changed(pre_tokenizer=splits, post_processor=processors), config())
    assert (found.adds_bos, found.adds_eos) == (True, False)


@pytest.mark.parametrize(
    ("order", "adds"),
    [
        ((0, 1), (True, False)),
        ((1, 0), (False, True)),
        ((0, 1, 0), (True, True)),
        ((1,), (False, False)),
    ],
)
def test_the_tokens_around_a_text(order, adds):
    single = [TEMPLATE["single"][place] for place in order]
    found = to_gguf(changed(post_processor=TEMPLATE | {"single": single}), config())
    assert (found.adds_bos, found.adds_eos) == adds
    with pytest.raises(UsageError) if any(adds) else nullcontext():
        to_gguf(
            changed(post_processor=TEMPLATE | {"single": single}),
            config(bos_token_id=7, eos_token_id=8),
        )


def test_ids_without_a_token_are_unused():
    found = to_gguf(json.dumps(JSON).encode(), config(VOCAB_SIZE + 2))
    assert found.tokens[VOCAB_SIZE:] == [f"[PAD{VOCAB_SIZE}]", f"[PAD{VOCAB_SIZE + 1}]"]
    assert found.kinds[VOCAB_SIZE - 1 :] == [NORMAL, UNUSED, UNUSED]


def test_tokens_that_the_model_does_not_know_are_left_out():
    added = JSON["added_tokens"][0] | {"id": VOCAB_SIZE, "content": "<|more|>", "special": False}
    content = changed(added_tokens=[*JSON["added_tokens"], added])
    assert to_gguf(content, config()).tokens[-1] != "<|more|>"
    found = to_gguf(content, config(VOCAB_SIZE + 1))
    assert (found.tokens[-1], found.kinds[-1]) == ("<|more|>", USER_DEFINED)
    assert to_gguf(changed(added_tokens=None), config()).kinds == [NORMAL] * VOCAB_SIZE


def test_merges_may_be_texts_or_pairs():
    pairs = [own if isinstance(own, list) else own.split(" ") for own in JSON["model"]["merges"]]
    texts = [" ".join(own) for own in pairs]
    for merges in (pairs, texts):
        assert to_gguf(model(merges=merges), config()).merges == texts
