"""Ids of every kind of tokenizer, compared with those of transformers and SentencePiece."""

import json
import re
import sys
from pathlib import Path

import pytest

from rbe_cli.checkpoint.tokenizer.tokenizer_files import read_tokenizer
from rbe_cli.text.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(FIXTURES))

import tokenizer_cases as cases  # noqa: E402

_CONTROL = re.compile(r"<s>|<sep>|<pad>|\[CLS\]")
GOLDEN: dict[str, list[list[int]]] = json.loads((FIXTURES / "tokenizer_golden.json").read_text())
FOLDERS = {
    **cases.GPT2_CASES,
    **cases.BERT_CASES,
    **cases.sentence_piece_cases(),
    **{f"plain {name}": cases.sentence_piece(name) for name in cases.PLAIN_MODELS},
}


def test_every_case_has_golden_ids() -> None:
    assert list(FOLDERS) == list(GOLDEN)


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_the_reference_library(name: str, tmp_path: Path) -> None:
    cases.write(tmp_path, FOLDERS[name])
    found = read_tokenizer(tmp_path, cases.VOCAB_SIZE)
    assert found.json is not None
    tokenizer = Tokenizer(found.json, cases.VOCAB_SIZE)
    ids = {text: tokenizer.encode(text).tolist() for text in cases.TEXTS}
    expected = dict(zip(cases.TEXTS, GOLDEN[name], strict=True))
    if name.startswith("plain"):
        # Control symbols that are spelt out have an id in transformers, but not in SentencePiece.
        for text in [text for text in cases.TEXTS if _CONTROL.search(text)]:
            del ids[text], expected[text]
    assert ids == expected
