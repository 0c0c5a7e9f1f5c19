"""Which tokens end a text, by `config.json` and `generation_config.json`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import CheckpointError
from rbe_cli.model.end_of_text import end_of_text_ids

# What transformers 5.24 gives is the same where generation_config.json has the key. Where only
# config.json has it, transformers takes that value if generation_config.json does not exist.
CASES: list[tuple[dict[str, Any], dict[str, Any] | None, tuple[int, ...]]] = [
    ({}, None, (50256,)),
    ({}, {}, (50256,)),
    ({"eos_token_id": None}, None, ()),
    ({"eos_token_id": 5}, None, (5,)),
    ({"eos_token_id": [5, 6, 5]}, {}, (5, 6)),
    ({"eos_token_id": []}, None, ()),
    ({"eos_token_ids": [7]}, None, (7,)),
    ({"eos_token_ids": 7}, None, (7,)),
    ({"eos_token_id": 5, "eos_token_ids": [7]}, None, (5,)),
    ({"eos_token_id": 5}, {"eos_token_id": 9}, (9,)),
    ({"eos_token_id": 5}, {"eos_token_id": [9, 10]}, (9, 10)),
    ({"eos_token_id": 5}, {"eos_token_id": None}, ()),
    ({"eos_token_id": 5}, {"do_sample": True}, (5,)),
    ({}, {"eos_token_id": None}, ()),
]


@pytest.mark.parametrize(("config", "generation", "expected"), CASES)
def test_generation_config_comes_first_and_gpt2s_default_last(
    config: dict[str, Any], generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    assert end_of_text_ids(config, generation) == expected


@pytest.mark.parametrize("value", ["x", 1.0, True, [1, "2"], [[1]], {"a": 1}])
@pytest.mark.parametrize("place", ["config", "generation_config"])
def test_what_is_no_token_id_is_refused_by_name(place: str, value: object) -> None:
    own = {"eos_token_id": value}
    files = (own, None) if place == "config" else ({}, own)
    with pytest.raises(CheckpointError, match=f"{place}: eos_token_id = .* is not a token id"):
        end_of_text_ids(*files)


def test_a_folders_two_files_are_read(
    write_folder: Callable[[str], Path], raw_config: dict[str, Any]
) -> None:
    raw_config["eos_token_id"] = 5
    folder = write_folder("model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.config.eos_token_id == (2, 3)
    assert checkpoint.notes == ()


def test_ids_outside_the_vocabulary_are_left_out_with_a_note(
    write_folder: Callable[[str], Path], raw_config: dict[str, Any]
) -> None:
    raw_config["eos_token_id"] = [5, 6, -2]
    checkpoint = open_checkpoint(str(write_folder("model")))
    assert checkpoint.config.eos_token_id == 5
    assert checkpoint.notes == (
        "end-of-text ids outside the vocabulary of 6 tokens are left out: 6, -2",
    )


def test_gpt2s_default_outside_the_vocabulary_is_no_news(
    write_folder: Callable[[str], Path],
) -> None:
    checkpoint = open_checkpoint(str(write_folder("model")))
    assert (checkpoint.config.eos_token_ids, checkpoint.notes) == ((), ())
