import json

import pytest

from rbe_cli.cli.app import run

RESULT_FIELDS = [
    "op",
    "variant",
    "shape",
    "median_seconds",
    "min_seconds",
    "max_seconds",
    "iterations",
    "gflops",
    "gbytes_per_second",
    "backward",
    "peak_memory_bytes",
]
QUICK = ["bench", "--repeat", "1", "--threads", "1"]


def test_json_holds_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ["--shape", "1x2x8", "--shape", "2x1x6"]
    assert run([*QUICK, *shapes, "--backend", "cpu", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.keys() == {"machine", "results"}
    assert [list(timing) for timing in record["results"]] == [RESULT_FIELDS] * 40
    assert {timing["shape"] for timing in record["results"]} == {"1x2x8", "2x1x6"}


def test_one_op_in_one_variant(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--op", "attention", "--variant", "reference", "--format", "jsonl"]
    assert run([*QUICK, "--shape", "1x2x8", *chosen]) == 0
    (timing,) = json.loads(capsys.readouterr().out)["results"]
    assert (timing["op"], timing["variant"]) == ("attention", "reference")


def test_backward_passes(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--backward", "--op", "block", "--max-memory", "1MB", "--format", "json"]
    assert run([*QUICK, "--shape", "1x2x8", *chosen]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [timing["variant"] for timing in results] == ["fused", "standard", "mixed", "reference"]
    assert all(timing["backward"] for timing in results)


def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--shape", "1x2x8", "--op", "linear", "--variant", "all"]) == 0
    captured = capsys.readouterr()
    for text in ("GFLOP/s", "linear", "fused", "reference", "1x2x8"):
        assert text in captured.out
    assert "timing 1x2x8 ..." in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--shape", "8x0x2"], "--shape '8x0x2'"),
        (["--shape", "8x256"], "--shape '8x256'"),
        (["--shape", "1x2x8", "--shape", "abc"], "--shape 'abc'"),
        (["--shape", "99999x99999x99999"], "--shape 99999x99999x99999 needs about"),
        (["--op", "softmax"], "--op"),
        (["--variant", "slow"], "--variant"),
        (["--max-memory", "much"], "'--max-memory': 'much' is not a size"),
        (["--backend", "cuda"], "--backend"),
        (["--repeat", "0"], "--repeat"),
        (["--prompt-tokens", "5"], "--prompt-tokens belongs to --model"),
        (["--max-tokens", "5"], "--max-tokens belongs to --model"),
        (["--depth", "0"], "--depth belongs to --model"),
    ],
)
def test_bad_usage_names_the_flag(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert named in captured.err
    assert captured.out == ""


def test_a_missing_model_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--model", "no-such-file.rbe"]) == 4
    assert "no-such-file.rbe does not exist" in capsys.readouterr().err
