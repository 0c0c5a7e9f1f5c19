"""Commands and code that the documents show."""

import re
import shlex
from pathlib import Path

import pytest

from rbe_cli.cli.app import run

ROOT = Path(__file__).parents[1]


def blocks(path: Path, language: str) -> list[str]:
    """Return the contents of a page's code blocks in this language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[str]:
    """Return the lines of a page's shell blocks in order, comments left out."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines]
    return [line for line in lines if line]


def run_all(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run `rbe` commands one after the other; each has to succeed and to print something."""
    for line in lines:
        program, *arguments = shlex.split(line)
        assert Path(program).name == "rbe", line
        capsys.readouterr()
        assert run(arguments) == 0, (line, capsys.readouterr().err)
        assert capsys.readouterr().out, line
