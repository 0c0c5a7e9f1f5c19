"""The documents agree with the code, and their links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link]
    assert [link for link in files if not (path.parent / link).exists()] == []
