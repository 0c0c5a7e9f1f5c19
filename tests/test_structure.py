"""Rules of the source tree that are easy to break without noticing."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from rbe_cli.codec.registry import CODECS

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "rbe_cli").rglob("*.py"))
SOURCES = PACKAGE + sorted(
    path for folder in ("benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")
)
MOST_LINES, MOST_FUNCTION_LINES = 400, 70
# float16 and float32 are names of types, too.
CODEC_NAMES = CODECS.keys() - {"float16", "float32"}


def place(path, node=None):
    line = "" if node is None else f":{node.lineno}"
    return f"{path.relative_to(ROOT)}{line}"


def nodes(paths, kinds):
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield path, node


def repeated(names):
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_the_package_is_found():
    assert len(PACKAGE) > 200


def test_no_file_name_occurs_twice():
    names = [path.name for path in PACKAGE if not path.name.startswith("__")]
    assert repeated(names) == []


def test_no_class_name_occurs_twice():
    names = [node.name for _, node in nodes(PACKAGE, ast.ClassDef)]
    assert repeated(names) == []


def test_no_file_is_too_long():
    lengths = {place(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lengths.items() if count > MOST_LINES} == {}


def test_functions_fit_a_screen():
    functions = nodes(SOURCES, (ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {place(path, own): own.end_lineno - own.lineno + 1 for path, own in functions}
    assert {name: count for name, count in lengths.items() if count > MOST_FUNCTION_LINES} == {}


def test_no_code_compares_the_names_of_codecs():
    found = [
        place(path, node)
        for path, node in nodes(PACKAGE, (ast.Compare, ast.MatchValue))
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in CODEC_NAMES
    ]
    assert found == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE}), ids=place)
def test_every_folder_says_what_it_holds(folder):
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8")))
    assert docstring
    assert docstring.rstrip().endswith((".", "`"))
