"""What mypy says of a program that uses the package: its types are complete, and they hold."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("external_script.py").read_text(encoding="utf-8")


def mypy(program: str, folder: Path) -> list[str]:
    """Return the errors that mypy finds in strict mode, far from the project's own settings."""
    (folder / "program.py").write_text(program, encoding="utf-8")
    options = ["--strict", "--no-incremental", "--follow-imports=silent", "--config-file="]
    command = [sys.executable, "-m", "mypy", *options, "program.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_a_program_that_uses_the_api_passes_a_strict_check(tmp_path: Path) -> None:
    assert mypy(SCRIPT, tmp_path) == []


def test_wrong_uses_are_found(tmp_path: Path) -> None:
    changes = {
        "max_tokens=3": 'max_tokens="3"',
        "greedy=True": "gredy=True",
        "target_bpw=4.5": "target_bits=4.5",
        'kv_type="int8"': 'kv_type="int4"',
        "size: int = model": "size: str = model",
    }
    program, lines = SCRIPT, set()
    for right, wrong in changes.items():
        assert program.count(right) == 1
        program = program.replace(right, wrong)
        lines.add(1 + program[: program.index(wrong)].count("\n"))
    found = {int(error.split(":")[1]) for error in mypy(program, tmp_path)}
    assert found == lines
