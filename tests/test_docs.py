"""The documents agree with the code, and their links lead somewhere."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from rbe_cli.codec.registry import CODECS
from rbe_cli.compression.settings import load_preset, preset_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("**/*.md"))]


def test_the_cli_reference_is_what_the_command_line_says() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "make_cli_reference.py"))["page"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == page, "run: make docs"


@pytest.mark.parametrize("width", [40, 200])
def test_the_cli_reference_does_not_depend_on_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    page = runpy.run_path(str(ROOT / "tools" / "make_cli_reference.py"))["page"]()
    assert page == (DOCS / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (path.parent / link).exists()] == []


def test_every_codec_has_a_section_and_a_row_with_its_version() -> None:
    text = (DOCS / "FORMAT.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \d+\. `(\w+)`, version (\d+)$", text, re.MULTILINE)
    rows = re.findall(r"^\| \[`(\w+)`\]\(#[\w-]+\) \| ([\d, ]+) \| (\w+) \|", text, re.MULTILINE)
    kinds = {(True, False): "matrices", (False, True): "vectors", (True, True): "both"}
    assert sections == [(name, str(codec.version)) for name, codec in CODECS.items()]
    assert rows == [
        (
            name,
            ", ".join(map(str, range(codec.oldest_version, codec.version + 1))),
            kinds[codec.takes_matrices, codec.takes_vectors],
        )
        for name, codec in CODECS.items()
    ]


def test_every_preset_is_described_with_its_promise() -> None:
    text = (DOCS / "how-to" / "presets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d.]+) \|", text, re.MULTILINE)
    promises = {name: load_preset(name).max_kl_divergence for name in preset_names()}
    assert {name: float(promise) for name, promise in rows} == promises


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_source_file_that_a_page_names_exists(path: Path) -> None:
    names = re.findall(r"`([a-z_]+/[\w/.-]*\.(?:py|toml))`", path.read_text(encoding="utf-8"))
    homes = (ROOT, ROOT / "rbe_cli")
    assert [name for name in names if not any((home / name).exists() for home in homes)] == []


def test_the_architecture_page_knows_the_folders_and_their_order() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    tree, order = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    folders = {path.parent.name for path in (ROOT / "rbe_cli").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == folders
    (contract, *_) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    layers = [line.replace("rbe_cli.", "") for line in contract["layers"]]
    assert ["__main__", *order.splitlines()] == layers
