"""`--backend cuda` where there is no GPU, and what it does not do; both end with 2.

Neither opens the file, which does not exist.
"""

import pytest

from rbe_cli.cli.app import run


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let numba-cuda be missing, whatever this machine has."""
    monkeypatch.setattr("rbe_cli.cuda.device.find_spec", lambda name: None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "missing.rbe", "text", "--max-tokens", "1"],
        ["run", "missing.rbe", "text"],
        ["bench", "--shape", "1x2x8"],
        ["bench", "--model", "missing.rbe"],
    ],
)
def test_a_missing_gpu_is_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--backend", "cuda", "-q"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "rbe: --backend cuda needs numba-cuda: pip install 'rbe-cli[cuda]'"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["generate", "missing.rbe", "a", "--max-memory", "1GB"],
            "--max-memory does not work with",
        ),
        (
            ["generate", "missing.rbe", "a", "--activations", "8"],
            "--activations 8 does not exist on",
        ),
        (["run", "missing.rbe", "a", "--profile"], "--profile does not work with"),
        (["bench", "--shape", "1x2x8", "--max-memory", "1GB"], "--max-memory does not work with"),
        (["bench", "--shape", "1x2x8", "--activations", "8"], "--activations 8 does not exist on"),
        (
            ["run", "missing.rbe", "a", "--engine", "reference"],
            "--engine reference does not work with",
        ),
    ],
)
def test_what_the_gpu_does_not_do_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--backend", "cuda", "-q"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "--backend cuda" in captured.err
    assert captured.out == ""
