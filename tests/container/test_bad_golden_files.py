"""Each rule of docs/FORMAT.md has a file that breaks it, and gives the error of the rule."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from golden.bad.bad_cases import CASES
from golden.bad.make_bad_files import read_all, sound

from rbe_cli import errors
from rbe_cli.cli.app import run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden" / "bad"
EXPECTED: dict[str, dict[str, str]] = json.loads((FOLDER / "expectations.json").read_text())
PAGE = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
RULES = dict(re.findall(r"^- \*\*(\d+\.\d+)\*\* .*?\[(\w+Error)\]", PAGE, re.MULTILINE))
ONLY_BY_VERIFY = "3.3"
every_file = pytest.mark.parametrize("name", EXPECTED)


def rule_of(name: str) -> str:
    return name.partition("-")[0]


def test_every_rule_of_the_page_has_a_file_and_an_error() -> None:
    numbers = re.findall(r"^- \*\*([\d.]+)\*\*", PAGE, re.MULTILINE)
    assert len(set(numbers)) == len(numbers) == len(RULES)
    assert {rule_of(name) for name in EXPECTED} == set(numbers)


def test_rules_are_numbered_in_the_order_of_the_page() -> None:
    section, places = 0, {}
    for line in PAGE.splitlines():
        if found := re.match(r"## (\d+)\.", line):
            section = int(found[1])
        if found := re.match(r"- \*\*(\d+)\.(\d+)\*\*", line):
            places.setdefault(section, []).append((int(found[1]), int(found[2])))
    for own, numbers in places.items():
        assert numbers == [(own, index + 1) for index in range(len(numbers))]


def test_every_file_has_its_expectations() -> None:
    assert {path.name for path in FOLDER.glob("*.rbe")} == EXPECTED.keys()
    assert {f"{name}.rbe" for name in CASES} == EXPECTED.keys()


@every_file
def test_it_gives_the_error_of_its_rule(name: str) -> None:
    expected = EXPECTED[name]
    assert expected["error"] == RULES[rule_of(name)]
    with pytest.raises(getattr(errors, expected["error"])) as caught:
        read_all(FOLDER / name)
    assert type(caught.value).__name__ == expected["error"]
    sentence = str(caught.value).removeprefix(f"{FOLDER / name}: ")
    assert sentence.startswith(expected["sentence"])
    assert sentence.isprintable()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives a command line, which has to end with code 3; returns its one sentence."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert run([*arguments, "-q"]) == 3
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        return printed.err.removeprefix("rbe: ")

    return call


@every_file
def test_inspect_verify_says_so(name: str, refused: Callable[..., str]) -> None:
    said = refused("inspect", str(FOLDER / name), "--verify")
    assert said.removeprefix(f"{FOLDER / name}: ").startswith(EXPECTED[name]["sentence"])


@pytest.fixture
def ids(tmp_path: Path) -> str:
    (tmp_path / "ids.txt").write_text("1 2")
    return str(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", [own for own in EXPECTED if rule_of(own) != ONLY_BY_VERIFY])
def test_generate_says_so(name: str, refused: Callable[..., str], ids: str) -> None:
    said = refused("generate", str(FOLDER / name), "--tokens", ids, "--max-tokens", "1")
    assert said.removeprefix(f"{FOLDER / name}: ").startswith(EXPECTED[name]["sentence"])


def test_without_its_fault_a_file_is_sound(tmp_path: Path, ids: str) -> None:
    path = tmp_path / "a.rbe"
    path.write_bytes(sound(path).build())
    read_all(path)
    assert run(["generate", str(path), "--tokens", ids, "--max-tokens", "1", "-q"]) == 0
