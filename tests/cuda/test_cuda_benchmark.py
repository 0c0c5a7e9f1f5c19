"""The benchmark's checks, in the simulator; it times nothing there."""

import json
import os

import pytest
from deadlines import run_python
from small_models import small_config

from benchmarks.cuda import __main__ as benchmark
from benchmarks.cuda import checks, timings
from rbe_cli.bench.operator_shapes import Shape

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_all_checks_pass(tmp_path, capsys):
    assert benchmark.main(["--seed", "1", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert found["simulated"]
    assert found["timings"] == []
    assert len(found["checks"]) == 19
    assert all(check["passed"] for check in found["checks"])
    assert "WRONG" not in capsys.readouterr().out


@pytest.mark.parametrize("error", [float("nan"), 2.0])
def test_a_wrong_kernel_fails(error, monkeypatch, capsys):
    wrong = [checks.Check("a kernel", error, 1.0)]
    monkeypatch.setattr(checks, "all_checks", lambda *_: wrong)
    assert benchmark.main([]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_no_gpu_is_one_sentence():
    code = "import sys; from benchmarks.cuda.__main__ import main; sys.exit(main([]))"
    done = run_python(code, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "this benchmark needs an NVIDIA GPU with its driver, and finds none\n"


def test_everything_is_timed_at_a_tiny_size(monkeypatch):
    monkeypatch.setattr(timings, "DEFAULT_SHAPES", (Shape(1, 5, 6),))
    monkeypatch.setattr(timings, "_ROTATED_BYTES", 1)
    monkeypatch.setattr(timings, "_CALLS", 1)
    monkeypatch.setattr(timings, "_PROMPT_TOKENS", 2)
    monkeypatch.setattr(timings, "_NEW_TOKENS", 1)
    small = small_config(vocab_size=5, n_positions=4, n_embd=4, n_head=2, n_inner=5, n_layer=1)
    monkeypatch.setattr(timings, "_GPT2", small)
    monkeypatch.setattr(timings, "find_spec", lambda name: None)  # torch takes no simulated arrays
    found = list(timings.all_timings())
    names = [own.name for own in found]
    assert len(names) == len(set(names)) == 2 * 2 + 2 * 3 + 2
    assert all(own.gbytes_per_second or own.tokens_per_second for own in found)
