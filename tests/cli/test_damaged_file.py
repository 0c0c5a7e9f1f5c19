"""A `.rbe` file cut short or changed anywhere: exit code 3 and one sentence that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.container.reader import Container

Rbe = Callable[..., Any]
VERBS = {
    "inspect": ["--verify"],
    "run": ["The quick brown fox", "--top-k", "0"],
    "generate": ["The quick brown fox", "--max-tokens", "2"],
    "bench": ["--repeat", "1", "--max-tokens", "1", "--prompt-tokens", "2"],
}


@pytest.fixture
def refused(rbe: Rbe, tmp_path: Path) -> Callable[[bytes, str], str]:
    """Gives a file of these bytes to a verb; returns the sentence it is refused with."""
    path = tmp_path / "damaged.rbe"

    def call(content: bytes, verb: str) -> str:
        path.write_bytes(content)
        model = ["--model", path] if verb == "bench" else [path]
        done = rbe(verb, *model, *VERBS[verb], "-q")
        assert (done.code, done.out) == (3, ""), done.err
        assert done.err.startswith(f"rbe: {path}: ")
        assert done.err.count("\n") == 1
        return done.err.rstrip()

    return call


Refused = Callable[[bytes, str], str]


def flipped(content: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.fixture
def valid(rbe_file: Path) -> bytes:
    return rbe_file.read_bytes()


@pytest.mark.parametrize("verb", VERBS)
def test_cut_short(refused: Refused, valid: bytes, verb: str) -> None:
    for kept in (0, 1, 7, 8, 23, 24, 500, len(valid) // 2, len(valid) - 1):
        assert "the file " in refused(valid[:kept], verb)


@pytest.mark.parametrize("verb", VERBS)
def test_another_version(refused: Refused, valid: bytes, verb: str) -> None:
    newer = valid[:8] + (3).to_bytes(4, "little") + valid[12:]
    assert refused(newer, verb).endswith(
        "a newer rbe wrote this file (format version 3); "
        "this one reads versions 1 to 2: upgrade rbe"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_bytes_at_the_end(refused: Refused, valid: bytes, verb: str) -> None:
    assert "3 bytes follow the last section" in refused(valid + b"abc", verb)


def test_any_flipped_bit_is_found_by_verify(refused: Refused, valid: bytes) -> None:
    for position in range(0, len(valid), 61):
        refused(flipped(valid, position, bit=position % 8), "inspect")


@pytest.mark.parametrize("verb", VERBS)
def test_a_flipped_bit_of_every_section_is_found(
    refused: Refused, valid: bytes, rbe_file: Path, verb: str
) -> None:
    with Container.open(rbe_file) as container:
        sections, header_end = container.sections, container.layout.header_end
    assert "header is damaged" in refused(flipped(valid, header_end - 1), verb)
    for section in sections:
        if verb == "bench" and section.name == "tokenizer":
            continue  # which it does not read
        for position in (section.offset, section.end - 1):
            sentence = refused(flipped(valid, position), verb)
            assert sentence.endswith(
                f"section {section.name} is damaged: its checksum does not match"
            )
