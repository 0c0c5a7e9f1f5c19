"""What a user is told of an exception: lack of memory, hints, and bugs."""

import ast
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from deadlines import run_python

import rbe_cli
from rbe_cli.cli.app import app
from rbe_cli.cli.faults import flags_of, told
from rbe_cli.errors import BadFileError, NotFoundError, RbeError, UsageError
from rbe_cli.text.generation_options import GenerationOptions

Rbe = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]
NO_MEMORY = "there is not enough memory"
HUGE = 1 << 50  # numbers of eight bytes


def huge_array() -> None:
    np.empty(HUGE)


def huge_mapping() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def one_thread_too_many() -> None:
    raise RuntimeError("can't start new thread")


def library_that_does_not_fit() -> None:
    raise ImportError("libx.so: failed to map segment from shared object")


def plain_lack() -> None:
    raise MemoryError


LACKS = [huge_array, huge_mapping, one_thread_too_many, library_that_does_not_fit, plain_lack]


@pytest.mark.parametrize("lack", LACKS)
def test_too_little_memory_is_said_in_those_words(lack: Callable[[], None]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        lack()
    found = told(caught.value, [])
    assert (str(found), found.exit_code) == (NO_MEMORY + size(lack), 1)


@pytest.mark.parametrize("lack", LACKS)
def test_also_where_it_was_taken_for_a_bad_file(lack: Callable[[], None]) -> None:
    wrapped = BadFileError("x.rbe cannot be read")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        lack()
    wrapped.__cause__ = caught.value
    assert str(told(wrapped, [])) == NO_MEMORY + size(lack)


def size(lack: Callable[[], None]) -> str:
    """What is known of the size."""
    return f", {HUGE * 8 / 1e6:.1f} MB of it in one piece" if lack is huge_array else ""


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    for error in (OSError(errno.ENOSPC, "full"), RuntimeError("no"), ImportError("no module")):
        assert "this is a bug in rbe" in str(told(error, []))


def test_our_own_errors_stay_as_they_are() -> None:
    error = RbeError("a sentence")
    assert told(error, ["generate", "x.rbe"]) is error


def test_too_little_memory_on_the_whole_way(
    rbe: Rbe, rbe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbe_cli.container.reader.Container.open", lambda path: plain_lack())
    done = rbe("inspect", rbe_file)
    assert (done.code, done.out, done.err) == (1, "", f"rbe: {NO_MEMORY}\n")


@pytest.mark.parametrize("verb", ["run", "generate"])
@pytest.mark.parametrize("text", ["-foo", "--words and words", "-1", "- a list", "-xyz"])
def test_a_text_that_begins_with_a_dash(rbe: Rbe, rbe_file: Path, verb: str, text: str) -> None:
    done = rbe(verb, rbe_file, text)
    assert done.code in (2, 4)
    assert f"goes after a -- of its own: rbe {verb} FILE.rbe -- '-text'\n" in done.err
    assert rbe(verb, rbe_file, "-q", "--", text).code == 0


def test_the_hint_at_dashes_is_for_texts_alone(rbe: Rbe, rbe_file: Path) -> None:
    for arguments in (
        ["inspect", rbe_file, "-1"],
        ["generate", rbe_file, "x", "--temprature", 1],
        ["generate", rbe_file, "-f", "none.txt"],
        ["generate", "none.rbe", "x"],
    ):
        done = rbe(*arguments)
        assert done.code in (2, 4)
        assert "of its own" not in done.err


def test_a_file_that_is_not_found_keeps_its_code() -> None:
    found = told(NotFoundError("oo cannot be read"), ["run", "x.rbe", "-foo"])
    assert found.exit_code == 4


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v has no effect elsewhere")
@pytest.mark.parametrize("megabytes", [250, 400])
@pytest.mark.parametrize("verb", [["inspect"], ["generate", "The", "--max-tokens", 2]], ids=str)
def test_a_limited_address_space(
    start: Start, rbe_file: Path, verb: list[object], megabytes: int
) -> None:
    name, *others = verb
    limit = f"ulimit -v {megabytes * 1024}"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each takes some address space
    options = ["-q", "--threads", 1]
    process = start(name, rbe_file, *others, *options, before=limit, env=environment)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert "bug in rbe" not in err
    assert process.returncode == 0 or NO_MEMORY in err


LIMITED = """
import resource, sys
from rbe_cli.cli.app import run
from rbe_cli.runtime import native

native.prepare(["products", "engine", "layers", "codec"])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 1_000_000, resource.RLIM_INFINITY))
sys.exit(run({arguments!r}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
@pytest.mark.parametrize(
    ("arguments", "megabytes", "task"),
    [
        (["generate", "{file}", "It was", "--threads", "1"], 60, "to load the model"),
        (["compress", "demo", "{new}", "--jobs", "1"], 100, "to compress the model"),
        (["bench", "--shape", "1x64x4096", "--op", "linear"], 60, "to time the shape 1x64x4096"),
    ],
    ids=["generate", "compress", "bench"],
)
def test_a_task_says_how_much_memory_it_needs(
    tmp_path: Path, rbe_file: Path, arguments: list[str], megabytes: int, task: str
) -> None:
    command = [own.format(file=rbe_file, new=tmp_path / "x.rbe") for own in arguments]
    code = LIMITED.format(megabytes=megabytes, arguments=[*command, "-q"])
    done = run_python(code, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 1
    found = (
        rf"rbe: {NO_MEMORY} {task}: about \d+\.\d MB are needed(, \d+\.\d MB of it in one piece)?\n"
    )
    assert re.fullmatch(found, done.stderr), done.stderr


def test_decoding_a_file_says_how_much_memory_it_needs(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack = "rbe_cli.compression.decompression.write_folder"
    monkeypatch.setattr(lack, lambda *arguments: huge_array())
    done = rbe("compress", "--decompress", rbe_file, tmp_path / "out", "-q")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"rbe: {NO_MEMORY} to decode the model: about 0.")


def test_flags_stand_in_the_place_of_parameters_that_they_set() -> None:
    flags = {"top_p": "--top-p", "overrides": "--override"}
    error = UsageError("`top_p` and `overrides` exclude `bit` and top_p")
    found = told(error, [], flags)
    assert type(found) is UsageError
    assert str(found) == "--top-p and --override exclude `bit` and top_p"
    assert told(error, []) is error


@pytest.mark.parametrize(
    ("options", "parameter", "flag"),
    [
        ({"top_p": 2.0}, "`top_p` must lie in (0, 1]", "--top-p must lie in (0, 1]"),
        ({"max_tokens": 0}, "`max_tokens` must lie in [1,", "--max-tokens must lie in [1,"),
    ],
)
def test_the_library_names_parameters_and_the_command_flags(
    rbe: Rbe, rbe_file: Path, options: dict[str, Any], parameter: str, flag: str
) -> None:
    with pytest.raises(UsageError) as caught:
        GenerationOptions(**options)
    assert parameter in str(caught.value)
    words = [f"--{n.replace('_', '-')}={value}" for n, value in options.items()]
    done = rbe("generate", rbe_file, "A", *words)
    assert done.code == 2
    assert flag in done.err
    assert "`" not in done.err


def test_every_parameter_that_the_library_names_has_a_flag() -> None:
    package = Path(rbe_cli.__file__).parent
    parts = [path for path in package.rglob("*.py") if path.parts[-2] not in ("cli", "api")]
    raised = [
        node
        for path in parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise | ast.Return | ast.Assign) and "Error(" in ast.unparse(node)
    ]
    named = {name for node in raised for name in re.findall(r"`(\w+)`", ast.unparse(node))}
    assert {"max_memory", "force", "threads"} <= named
    flags = {
        name for verb in typer.main.get_group(app).commands.values() for name in flags_of(verb)
    }
    assert named <= flags
    with_flags = [ast.unparse(node) for node in raised if "--" in ast.unparse(node)]
    foreign = ("llama-gguf-split --merge", "hf download", " --revision")  # of other programs
    assert [own for own in with_flags if not any(name in own for name in foreign)] == []
