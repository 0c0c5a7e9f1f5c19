"""docs/json.md names every field that the verbs print, and its type, and names no other."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.cli.app import run

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "object": dict,
}
OPEN = {"codec_versions", "config", "provenance.extra"}  # objects whose keys stand elsewhere

Fields = dict[str, str]  # path -> type, as in the page


def documented(heading: str) -> Fields:
    """Return the fields of the table below a heading."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE)
    fields = {path: kind.strip() for path, kind in rows}
    assert fields
    assert len(fields) == len(rows)
    return fields


def leaves(value: Any, fields: Fields, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of what has a row of its own, or ought to have one."""
    if path in OPEN or fields.get(path) in ("any", "list or null", "object"):
        yield path, value
    elif isinstance(value, dict):
        if path in fields:
            yield path, value
        for key, item in value.items():
            yield from leaves(item, fields, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, fields, f"{path}[]")
    else:
        yield path, value


def is_of(value: Any, kind: str) -> bool:
    """Whether a value has a type of the page."""
    names = kind.split(" or ")
    if "any" in names or value is None:
        return "any" in names or "null" in names
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names if name != "null")


def check(printed: Any, fields: Fields, absent: tuple[str, ...] = ()) -> None:
    """Compare what a verb printed with the page; `absent` are fields that this run has not."""
    found = list(leaves(printed, fields))
    assert {path for path, _ in found} - fields.keys() == set()
    assert fields.keys() - {path for path, _ in found} == set(absent)
    wrong = [(path, value) for path, value in found if not is_of(value, fields[path])]
    assert wrong == []


def test_compress(rbe, checkpoint, tmp_path) -> None:
    options = ("--target-bpw", 6, "--tune", 1, "--calib-samples", 8, "--format", "json")
    done = rbe("compress", checkpoint, tmp_path / "out.rbe", *options, "--force")
    assert done.code == 0, done.err
    check(done.json, documented("rbe compress"), absent=("warnings[]",))


def test_compress_with_a_warning(rbe, checkpoint, tmp_path) -> None:
    """It is untuned, and null."""
    config = tmp_path / "strict.toml"
    config.write_text("target_bpw = 2.0\nmax_kl_divergence = 1e-9\n")
    options = ("--config", config, "--calib-samples", 8, "--format", "json", "--force")
    done = rbe("compress", checkpoint, tmp_path / "out.rbe", *options)
    assert done.code == 0, done.err
    fields = documented("rbe compress")
    check(done.json, fields, absent=tuple(path for path in fields if path.startswith("tuning.")))


def test_a_dry_run(rbe, checkpoint, tmp_path) -> None:
    done = rbe("compress", checkpoint, tmp_path / "out.rbe", "--dry-run", "--format", "json")
    check(done.json, documented("With --dry-run"))


def test_decompress(rbe, rbe_file, tmp_path) -> None:
    done = rbe("compress", "-d", rbe_file, tmp_path / "out.gguf", "--format", "json")
    assert done.code == 0, done.err
    check(done.json, documented("With --decompress"), absent=("notes[]",))


@pytest.mark.parametrize("verify", [True, False])
def test_inspect(rbe, rbe_file, verify: bool) -> None:
    done = rbe("inspect", rbe_file, "--format", "json", *["--verify"] * verify)
    check(done.json, documented("rbe inspect"))


def test_inspect_two_files(rbe, rbe_file, bare_file) -> None:
    done = rbe("inspect", rbe_file, "--diff", bare_file, "--format", "json")
    fields = documented("With --diff")
    same = tuple(path for path in fields if path.startswith("diff.config[]"))
    check({"diff": done.json["diff"]}, fields, absent=same)


def test_run(rbe, rbe_file, checkpoint) -> None:
    asked = ("--top-k", 2, "--logprobs", "--profile", "--reference", checkpoint)
    done = rbe("run", rbe_file, "the old man", *asked, "--format", "json")
    assert done.code == 0, done.err
    check(done.json, documented("rbe run"))


def test_run_asked_for_little(rbe, bare_file, tmp_path) -> None:
    """What is null or empty then."""
    (tmp_path / "ids.txt").write_text("5\n")
    done = rbe("run", bare_file, "--tokens", tmp_path / "ids.txt", "--format", "json")
    assert done.code == 0, done.err
    fields = documented("rbe run")
    lists = ("layers[]", "profile[]", "logprobs[]", "window.")
    check(done.json, fields, tuple(path for path in fields if path.startswith(lists)))


def test_generate(rbe, rbe_file) -> None:
    options = ("--max-tokens", 3, "--seed", 1, "--logprobs", 2, "--ignore-eos")
    fields = documented("rbe generate")
    check(rbe("generate", rbe_file, "the", *options, "--format", "json").json, fields)
    *steps, summary = rbe("generate", rbe_file, "the", *options, "--format", "jsonl").lines
    check(summary, fields)
    assert len(steps) == 3
    for step in steps:
        check(step, documented("A line for each token, in jsonl"))


def test_bench_layers(rbe) -> None:
    shapes = ("--shape", "1x8x16", "--shape", "64x1024x4096", "--op", "linear")
    options = ("--repeat", 1, "--max-seconds", 1, "--format", "json")
    done = rbe("bench", *shapes, *options)
    assert done.code == 0, done.err
    check(done.json, documented("rbe bench"))


def test_bench_a_model(rbe, rbe_file) -> None:
    options = ("--prompt-tokens", 8, "--max-tokens", 4, "--repeat", 1, "--format", "json")
    printed = rbe("bench", "--model", rbe_file, *options).json
    fields = documented("With --model")
    check({"models": printed["models"]}, fields)
    assert printed["models"][0].items() <= printed.items()  # its fields stand at the top as well
    rest = {path for path, _ in leaves(printed, documented("rbe bench"))}
    own = {path.removeprefix("models[].") for path in fields} | set(fields)
    assert rest - own <= documented("rbe bench").keys()


def test_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "nothing.rbe", "--format", "json"]) == 4
    check(json.loads(capsys.readouterr().err), documented("JSON reference"))
