import os
from pathlib import Path

import pytest

from rbe_cli.checkpoint.source_name import HubName, hub_name, is_local, public_name
from rbe_cli.errors import NotFoundError


@pytest.mark.parametrize(
    ("source", "repo", "revision"),
    [
        ("gpt2", "gpt2", None),
        ("org/name", "org/name", None),
        ("org/name@v2", "org/name", "v2"),
        ("https://huggingface.co/gpt2", "gpt2", None),
        ("https://huggingface.co/org/name", "org/name", None),
        ("https://huggingface.co/org/name/", "org/name", None),
        ("http://www.huggingface.co/org/name?library=transformers#usage", "org/name", None),
        ("https://hf.co/org/name", "org/name", None),
        ("huggingface.co/org/name", "org/name", None),
        ("https://huggingface.co/org/name/tree/main", "org/name", None),
        ("https://huggingface.co/org/name/tree/v2", "org/name", "v2"),
        ("https://huggingface.co/gpt2/tree/v2", "gpt2", "v2"),
        ("https://huggingface.co/org/name/tree", "org/name", None),
        ("https://huggingface.co/gpt2/commit", "gpt2", None),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name", "refs/pr/1"),
        ("https://huggingface.co/org/name/blob/main/model.safetensors", "org/name", None),
        ("https://huggingface.co/org/name/resolve/v2/config.json", "org/name", "v2"),
        ("hf://org/name@v2", "org/name", "v2"),
        ("hf://models/org/name", "org/name", None),
    ],
)
def test_hub_ids_and_addresses(source: str, repo: str, revision: str | None) -> None:
    assert hub_name(source) == HubName(repo, revision)
    assert not is_local(source)


def test_the_address_of_a_hub_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org:8080/")
    assert hub_name("https://hub.example.org:8080/org/name") == HubName("org/name")


@pytest.mark.parametrize(
    "source",
    [
        "https://example.org/org/name",
        "https://huggingface.co/",
        "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/spaces/org/name",
        "ftp://huggingface.example.org/gpt2",
    ],
)
def test_addresses_of_other_things_are_refused(source: str) -> None:
    with pytest.raises(NotFoundError, match=source):
        hub_name(source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo", "demo"),
        ("gpt2", "gpt2"),
        ("org/name@v2", "org/name@v2"),
        ("https://huggingface.co/org/name/tree/v2", "org/name@v2"),
        ("/home/somebody/secret project/gpt2", "gpt2"),
        ("/home/somebody/gpt2/", "gpt2"),
        ("./models/gpt2/../gpt3", "gpt3"),
        ("../gpt2/model.safetensors", "model.safetensors"),
        ("/x/hub/models--org--name/snapshots/" + "a" * 40, "org/name"),
        ("/x/hub/models--gpt2", "gpt2"),
        ("/", "checkpoint"),
    ],
)
def test_a_file_names_its_source_without_folders(source: str, name: str) -> None:
    assert public_name(source) == name


def test_folders_that_look_like_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "gpt2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public_name(os.path.join("models", "gpt2")) == "gpt2"
    monkeypatch.chdir("models/gpt2")
    assert public_name(".") == "gpt2"
    assert public_name("..") == "models"
