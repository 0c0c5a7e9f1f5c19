"""Files beside a vocabulary: whatever JSON they hold, they are read or refused by name."""

import json
from pathlib import Path

import pytest
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from rbe_cli.checkpoint.tokenizer.tokenizer_files import read_tokenizer
from rbe_cli.checkpoint.tokenizer.tokenizer_settings import SETTINGS_FILES, read_settings
from rbe_cli.errors import CheckpointError

FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special", "content", "id", "__type")
KEYS = (
    *("bos_token", "eos_token", "unk_token", "cls_token", "image_token", "tokenizer_class"),
    *("add_bos_token", "add_prefix_space", "do_lower_case", "strip_accents", "legacy"),
    *("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "extra_ids"),
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.floats()
    | st.sampled_from(["", "a", "<x>", "[CLS]", "T5Tokenizer", "BertTokenizer", "7", "x:y", "$A"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FLAGS, "1", "260", "<x>"]), inner, max_size=4)
    ),
    max_leaves=8,
)
FILES = st.dictionaries(
    st.sampled_from(SETTINGS_FILES), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4)
)
VOCABULARIES: dict[str, dict[str, str | bytes]] = {
    "gpt2": {"vocab.json": '{"a": 0, "b": 1, "ab": 2}', "merges.txt": "a b\n"},
    "bert": {"vocab.txt": "[UNK]\n[CLS]\na\nb\n"},
    "sentence piece": {
        "spiece.model": (
            Path(__file__).parent / "fixtures" / "sentence_piece" / "char.model"
        ).read_bytes()
    },
}


@pytest.mark.parametrize("kind", VOCABULARIES)
@examples(150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_any_settings_are_read_or_refused(
    kind: str, tmp_path: Path, files: dict[str, object]
) -> None:
    for name in SETTINGS_FILES:
        (tmp_path / name).unlink(missing_ok=True)
    for name, content in VOCABULARIES[kind].items():
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    try:
        found = read_tokenizer(tmp_path, 300)
    except CheckpointError as error:
        refused = str(error)
    else:
        refused = ""
        assert (found.json is None) == (found.missing is not None)
    assert not refused or any(name in refused for name in (*files, *VOCABULARIES[kind]))


def test_roles_extras_and_flags(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GPT2TokenizerFast",
                "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": True},
                "eos_token": None,
                "video_token": "<v>",
                "extra_special_tokens": {"sound_token": "<a>"},
            }
        )
    )
    (tmp_path / "added_tokens.json").write_text('{"<s>": 7, "<v>": 8}')
    found = read_settings(tmp_path)
    assert found.class_name == "GPT2Tokenizer"
    assert found.content("bos_token", None) == "<s>"
    assert found.content("eos_token", "default") is None
    assert found.content("pad_token", "default") == "default"
    assert [found.content(role, None) for role in ("video_token", "sound_token")] == ["<v>", "<a>"]
    # Only the usual roles make an added token special already here, as in transformers.
    assert [(n, t.content, t.special) for n, t in found.added.items()] == [
        (7, "<s>", True),
        (8, "<v>", False),
    ]


@pytest.mark.parametrize("count", [3, 4])
def test_very_many_added_tokens_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("rbe_cli.checkpoint.tokenizer.tokenizer_settings._MAX_TOKENS", 3)
    tokens = {f"<{number}>": number for number in range(count)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(tokens))
    if count == 3:
        assert len(read_settings(tmp_path).added) == 3
    else:
        with pytest.raises(CheckpointError, match="adds more than 3 tokens to its vocabulary"):
            read_settings(tmp_path)


@pytest.mark.parametrize(("number", "is_read"), [(0, True), (2**31 - 1, True), (2**31, False)])
def test_ids_fit_into_31_bits(tmp_path: Path, number: int, is_read: bool) -> None:
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<x>": number}))
    if is_read:
        assert list(read_settings(tmp_path).added) == [number]
    else:
        with pytest.raises(CheckpointError, match=rf"added_tokens\.json: {number} is not a"):
            read_settings(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": []},
         "tokenizer_config.json: added_tokens_decoder is not an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": "a"}},
         "tokenizer_config.json: added_tokens_decoder: 'x' is not a token id"),
        ("tokenizer_config.json", {"extra_special_tokens": 3},
         "tokenizer_config.json: the extra special tokens are not a list"),
        ("special_tokens_map.json", {"bos_token": 3},
         "special_tokens_map.json: bos_token: 3 is not a token"),
        ("special_tokens_map.json", {"additional_special_tokens": [{"content": "a", "lstrip": 1}]},
         "special_tokens_map.json: extra special tokens: a flag of 'a' is not true or false"),
        ("added_tokens.json", {"a": -1}, "added_tokens.json: -1 is not a token id"),
    ],
)  # fmt: skip
def test_the_place_of_a_fault_is_named(
    tmp_path: Path, name: str, content: object, fault: str
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(CheckpointError) as caught:
        read_settings(tmp_path)
    assert str(caught.value) == fault


def test_a_fault_in_the_tokenizer_s_own_tokens_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: None is not a token id$"):
        read_settings(tmp_path, [{"content": "a"}])
    with pytest.raises(CheckpointError, match=r"^tokenizer\.json: .* is not a token$"):
        read_settings(tmp_path, [{"id": 3}])


@pytest.mark.parametrize("key", ["extra_special_tokens", "additional_special_tokens"])
def test_extra_special_tokens_are_special(tmp_path: Path, key: str) -> None:
    tokens = ["<a>", {"content": "<b>", "lstrip": True}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: tokens}))
    first, second = read_settings(tmp_path).extra
    assert (first.content, first.special, first.lstrip) == ("<a>", True, False)
    assert (second.content, second.special, second.lstrip) == ("<b>", True, True)
