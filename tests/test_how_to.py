"""Every command and program that the quick start, the how-to pages and python.md show works.

They run on a tiny model that takes the place of `demo`; tests/test_readme.py runs the real one.
"""

import json
import shutil
from pathlib import Path

import pytest
from documents import ROOT, blocks, commands, run_all
from safetensors.numpy import save_file
from small_models import random_tensors, small_config
from small_tokenizer import train_tokenizer

from rbe_cli.cli.app import run

QUICK_START = ROOT / "docs" / "quickstart.md"
PAGES = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), ROOT / "docs" / "python.md"]
TEXT = "The old count looked at the prince, who had come from Moscow in the night.\n" * 30
SHAPE = {"vocab_size": 300, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny checkpoint in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("tiny-demo")
    save_file(random_tensors(small_config(n_inner=128, **SHAPE), 0), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **SHAPE}))
    (folder / "tokenizer.json").write_bytes(train_tokenizer())
    return folder


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory, tiny_demo: Path) -> Path:
    """Compress the tiny checkpoint to what the quick start calls `demo.rbe`."""
    path = tmp_path_factory.mktemp("demo") / "demo.rbe"
    assert run(["compress", str(tiny_demo), str(path)]) == 0
    return path


@pytest.fixture
def desk(tmp_path: Path, tiny_demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of its own to work in, with a text, and with the tiny model as `demo`."""
    monkeypatch.setattr("rbe_cli.checkpoint.source._DEMO_FOLDER", tiny_demo)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("desk")
def test_the_quick_start_works(capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands(QUICK_START)
    verbs = {line.split()[1] for line in lines}
    assert verbs == {"compress", "inspect", "run", "generate", "bench"}
    run_all(lines, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_how_to_page_works(
    page: Path, desk: Path, demo_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(demo_file, desk)
    run_all(commands(page), capsys)
    names: dict[str, object] = {}  # a page's programs are one after the other
    for program in blocks(page, "python"):
        exec(compile(program, page.name, "exec"), names)


def test_most_pages_show_something_to_run() -> None:
    bare = [page.stem for page in PAGES if not commands(page) + blocks(page, "python")]
    assert bare == ["cluster"]


@pytest.mark.usefixtures("desk")
def test_the_program_of_the_readme_works(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks(ROOT / "README.md", "python")
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()
