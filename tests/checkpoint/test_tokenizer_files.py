import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from rbe_cli.checkpoint.tokenizer.tokenizer_files import has_tokenizer, read_tokenizer
from rbe_cli.errors import CheckpointError

GPT2_TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "gpt2-tokenizer"


def write_gpt2_files(folder: Path) -> None:
    """GPT-2's two files in small: all 256 bytes, two merges, the end marker."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\n", encoding="utf-8")


def load(folder: Path, vocab_size: int = 300) -> Tokenizer:
    content = read_tokenizer(folder, vocab_size).json
    assert content is not None
    return Tokenizer.from_str(content.decode())


def test_gpt2_files_become_a_tokenizer(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    tokenizer = load(tmp_path)

    assert tokenizer.encode(" the").tokens == ["Ġt", "he"]
    assert tokenizer.encode("he<|endoftext|>").ids == [257, 258]
    text = " naïve\n\tthe 日本  👍"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode([257, 258]) == "he"


@pytest.mark.parametrize(("vocab_size", "tokens"), [(258, 258), (259, 259)])
def test_the_end_marker_is_added_if_the_model_has_a_place_for_it(
    tmp_path: Path, vocab_size: int, tokens: int
) -> None:
    write_gpt2_files(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert load(tmp_path, vocab_size).get_vocab_size() == tokens


if GPT2_TOKENIZER.is_dir():

    def test_gpt2_itself() -> None:
        tokenizer = load(GPT2_TOKENIZER, 50257)
        assert tokenizer.get_vocab_size() == 50257
        assert tokenizer.encode("Hello world").ids == [15496, 995]
        assert tokenizer.encode("don't  stop<|endoftext|>").ids == [9099, 470, 220, 2245, 50256]


def test_tokenizer_json_comes_first_and_byte_for_byte(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    content = read_tokenizer(tmp_path, 300).json
    assert content is not None
    (tmp_path / "tokenizer.json").write_bytes(content + b"\n")
    (tmp_path / "vocab.json").write_text("damaged")
    assert read_tokenizer(tmp_path, 300).json == content + b"\n"


def test_a_folder_without_a_tokenizer_is_no_news(tmp_path: Path) -> None:
    found = read_tokenizer(tmp_path, 300)
    assert (found.json, found.notes, found.missing) == (None, (), "the checkpoint has none")


@pytest.mark.parametrize(
    ("name", "other"), [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")]
)
def test_half_a_tokenizer_is_named(tmp_path: Path, name: str, other: str) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).unlink()
    found = read_tokenizer(tmp_path, 300)
    assert found.json is None
    assert found.missing == f"{other} is there without {name}"
    assert found.notes == (
        f"no tokenizer is stored, so the file will take token ids only: {found.missing}",
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tekken.json", "{}", "tekken.json is not a tokenizer that rbe can read"),
        ("qwen.tiktoken", "IQ== 0\n", "qwen.tiktoken is not a tokenizer that rbe can read"),
        ("bpe.codes", "", "bpe.codes is not a tokenizer that rbe can read"),
        ("vocab.bpe", "", "vocab.bpe is not a tokenizer that rbe can read"),
        ("source.spm", "", "source.spm is not a tokenizer that rbe can read"),
        ("x.model", "", "x.model is not a tokenizer that rbe can read"),
        ("tokenizer.model", "IQ== 0\nIg== 1\n", "tokenizer.model is a tiktoken vocabulary"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    found = read_tokenizer(tmp_path, 300)
    assert (found.json, found.missing) == (None, reason)
    assert reason in found.notes[0]


def test_a_class_that_needs_a_dictionary_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    missing = read_tokenizer(tmp_path, 300).missing
    assert missing is not None
    assert "vocab.txt belongs to a BertJapaneseTokenizer" in missing


def test_a_class_with_unknown_rules_is_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizerFast"}')
    (note,) = read_tokenizer(tmp_path, 259).notes
    assert note == (
        "rules that RobertaTokenizer may add to vocab.json are not known: its ids may differ"
    )


def test_ids_beyond_the_model_are_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (note,) = read_tokenizer(tmp_path, 258).notes
    assert note.startswith("the tokenizer has ids up to 258, but the model's vocabulary has 258")
    assert read_tokenizer(tmp_path, 259).notes == ()


def test_ids_without_a_token_are_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (note,) = read_tokenizer(tmp_path, 300).notes
    assert note == "41 of the model's 300 ids have no token, and so no text"


def test_tokens_around_each_text_are_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    (note,) = read_tokenizer(tmp_path, 259).notes
    assert note == "special tokens surround each text, and so each prompt: <|endoftext|>"


def test_a_template_with_an_unknown_token_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library panics when it applies the template, not when it reads it."""
    write_gpt2_files(tmp_path)
    raw = json.loads(read_tokenizer(tmp_path, 259).json or b"")
    unknown = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [unknown, text],
        "pair": [unknown, text],
        "special_tokens": {},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.* cannot encode an empty text"):
        read_tokenizer(tmp_path, 259)
    assert capfd.readouterr().err == ""


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    plain = load(tmp_path).to_str()
    for name in ("vocab.json", "merges.txt"):
        content = (tmp_path / name).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert load(tmp_path).to_str() == plain
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + plain.encode())
    assert load(tmp_path).to_str() == plain


def test_ids_that_differ_from_the_files_are_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<x>": 270}')
    (note,) = read_tokenizer(tmp_path, 260).notes
    assert "<x> (id 259, not 270)" in note


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"model": {"type": "None"}}'])
def test_a_damaged_tokenizer_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        read_tokenizer(tmp_path, 300)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "["),
        ("vocab.json", '["a"]'),
        ("merges.txt", "a\n"),
        ("merges.txt", "q Ż\n"),
        ("merges.txt", "a b c\n"),
        ("vocab.json", '{"a": "b"}'),
    ],
)
def test_damaged_gpt2_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_tokenizer(tmp_path, 300)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "["),
        ("tokenizer_config.json", '{"bos_token": 3}'),
        ("tokenizer_config.json", '{"add_prefix_space": "yes"}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": 1}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": "a", "lstrip": 1}}}'),
        ("special_tokens_map.json", "{"),
        ("special_tokens_map.json", '{"additional_special_tokens": 5}'),
        ("added_tokens.json", "[1]"),
        ("added_tokens.json", '{"<x>": "y"}'),
        ("added_tokens.json", '{"<x>": -1}'),
        ("vocab.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ],
)
def test_damaged_files_beside_the_vocabulary_are_named(
    tmp_path: Path, name: str, content: str
) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_tokenizer(tmp_path, 300)


@pytest.mark.parametrize("content", [b"\xff", b"\n\x03\n\x01", b"\x0a\xff\xff", b"abc", b"\0\0"])
@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "sentencepiece.bpe.model"])
def test_a_damaged_sentence_piece_model_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.* is not a SentencePiece model"):
        read_tokenizer(tmp_path, 300)


def test_a_vocabulary_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"vocab\.txt is not UTF-8 text"):
        read_tokenizer(tmp_path, 300)


def test_a_panic_of_the_library_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_gpt2_files(tmp_path)
    raw = json.loads(read_tokenizer(tmp_path, 300).json or b"")
    raw["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        read_tokenizer(tmp_path, 300)
    assert capfd.readouterr().err == ""


def test_a_folder_has_a_tokenizer_if_all_its_files_are_there(tmp_path: Path) -> None:
    assert not has_tokenizer(tmp_path)
    write_gpt2_files(tmp_path)
    assert has_tokenizer(tmp_path)
    (tmp_path / "merges.txt").unlink()
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert has_tokenizer(tmp_path)


def test_an_option_without_effect_is_noted(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"split_special_tokens": true}')
    (note,) = read_tokenizer(tmp_path, 259).notes
    assert note.startswith("split_special_tokens in tokenizer_config.json is not supported")
    (tmp_path / "tokenizer_config.json").write_text('{"split_special_tokens": false}')
    assert read_tokenizer(tmp_path, 259).notes == ()


@pytest.mark.parametrize("lines", [4, 5])
def test_a_vocabulary_of_very_many_lines_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setattr("rbe_cli.checkpoint.tokenizer.tokenizer_vocabulary._MAX_LINES", 4)
    (tmp_path / "vocab.txt").write_text("[UNK]\n" + "".join(f"{n}\n" for n in range(lines - 1)))
    if lines == 4:
        assert read_tokenizer(tmp_path, 300).json is not None
    else:
        with pytest.raises(CheckpointError, match=r"vocab\.txt has more than 4 lines"):
            read_tokenizer(tmp_path, 300)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "added_tokens.json"])
def test_a_pointer_in_place_of_a_file_is_named(tmp_path: Path, name: str) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")
    with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer"):
        read_tokenizer(tmp_path, 300)


def test_very_many_merges_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gpt2_files(tmp_path)
    monkeypatch.setattr("rbe_cli.checkpoint.tokenizer_limits._MERGES", 0)
    fault = "the tokenizer has 2 merges, far too many for a model of 300 tokens"
    with pytest.raises(CheckpointError, match=fault):
        read_tokenizer(tmp_path, 300)


def test_a_tokenizer_without_tokens_leaves_all_ids_without_a_text(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())
    (note,) = read_tokenizer(tmp_path, 300).notes
    assert note == "300 of the model's 300 ids have no token, and so no text"


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast"])
def test_a_class_with_known_rules_is_not_noted(tmp_path: Path, name: str) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\na\nb\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    assert not any("rules that" in note for note in read_tokenizer(tmp_path, 3).notes)
