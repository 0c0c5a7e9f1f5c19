import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from rbe_cli.checkpoint.tokenizer_files import read_tokenizer
from rbe_cli.errors import CheckpointError

GPT2_TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "gpt2-tokenizer"


def write_gpt2_files(folder: Path) -> None:
    """GPT-2's two files in small: all 256 bytes, two merges, the end marker."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nh e\n", encoding="utf-8")


def load(folder: Path) -> Tokenizer:
    content = read_tokenizer(folder)
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


def test_a_vocabulary_without_the_end_marker_gets_none(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    del vocabulary["<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    assert load(tmp_path).get_vocab_size() == 258


if GPT2_TOKENIZER.is_dir():

    def test_gpt2_itself() -> None:
        tokenizer = load(GPT2_TOKENIZER)
        assert tokenizer.get_vocab_size() == 50257
        assert tokenizer.encode("Hello world").ids == [15496, 995]
        assert tokenizer.encode("don't  stop<|endoftext|>").ids == [9099, 470, 220, 2245, 50256]


def test_tokenizer_json_comes_first_and_byte_for_byte(tmp_path: Path) -> None:
    write_gpt2_files(tmp_path)
    content = read_tokenizer(tmp_path)
    assert content is not None
    (tmp_path / "tokenizer.json").write_bytes(content + b"\n")
    (tmp_path / "vocab.json").write_text("damaged")
    assert read_tokenizer(tmp_path) == content + b"\n"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer_is_none(tmp_path: Path, name: str) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).unlink()
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '{"model": {"type": "None"}}'])
def test_a_damaged_tokenizer_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="tokenizer"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("vocab.json", "["), ("vocab.json", '["a"]'), ("merges.txt", "a\n"), ("merges.txt", "q Ż\n")],
)
def test_damaged_gpt2_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    write_gpt2_files(tmp_path)
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer"):
        read_tokenizer(tmp_path)
