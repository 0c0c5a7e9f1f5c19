"""`rbe_cli.compress`: sources, choices, and the errors of choices that contradict each other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import rbe_cli
from rbe_cli.container.reader import Container

FEW = 8


def test_the_result_describes_the_file(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "tiny.rbe"
    found = rbe_cli.compress(checkpoint, out, calib_samples=FEW)
    assert isinstance(found, rbe_cli.CompressResult)
    assert (found.source, found.output, found.preset) == ("tiny", str(out), "balanced")
    assert found.file_bytes == out.stat().st_size
    assert [tensor.name for tensor in found.tensors] == list(checkpoint.tensors)
    with Container.open(out) as container:
        assert container.bits_per_weight == found.bits_per_weight
        assert container.provenance.preset == "balanced"


def test_a_path_and_the_open_checkpoint_give_the_same_file(
    checkpoint: rbe_cli.Checkpoint, rbe_file: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("opened.rbe", "path.rbe", "text.rbe")]
    opened = rbe_cli.open_source(str(rbe_file))
    for source, path in zip((opened, rbe_file, str(rbe_file)), paths, strict=True):
        rbe_cli.compress(source, str(path), target_bpw=4, calib_samples=FEW, seed=7)
    first, *others = [path.read_bytes() for path in paths]
    assert others == [first, first]


def test_a_target_and_rules_hold(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    rules = ["mlp=codec=float32", rbe_cli.Override("wpe", codec="float16")]
    found = rbe_cli.compress(
        checkpoint, tmp_path / "a.rbe", target_size=200_000, overrides=rules, calib_samples=FEW
    )
    assert found.preset is None
    assert 0.95 * 200_000 < found.file_bytes <= 200_000
    codecs = {tensor.name: tensor.codec for tensor in found.tensors}
    assert codecs["h.0.mlp.c_fc.weight"] == "float32"
    assert codecs["wpe.weight"] == "float16"
    assert codecs["wte.weight"] == "ectcq"


def test_a_preset_by_name(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "a.rbe"
    found = rbe_cli.compress(checkpoint, out, "speed-4bit", calib_samples=FEW, force=True)
    assert found.preset == "speed-4bit"
    assert {tensor.codec for tensor in found.tensors if len(tensor.shape) == 2} == {"fixed"}


def test_calibration_from_files(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (20, 40)))
    text = tmp_path / "text.txt"
    text.write_text("The lamp was out. " * 200)
    first = rbe_cli.compress(checkpoint, tmp_path / "a.rbe", calib=text, force=True)
    second = rbe_cli.compress(checkpoint, tmp_path / "b.rbe", calib_tokens=tokens, force=True)
    assert (first.quality.text, second.quality.text) == ("text.txt", "tokens.npy")


def test_progress_hears_of_the_stages(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    heard: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append(stage)

    rbe_cli.compress(checkpoint, tmp_path / "a.rbe", calib_samples=FEW, progress=progress)
    assert {"measuring layers", "encoding", "evaluating"} <= set(heard)


def test_a_dry_run_writes_nothing(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    prepared = rbe_cli.Compression.prepare(checkpoint, tmp_path / "a.rbe", target_bpw=4)
    planned = prepared.dry_run()
    assert planned.bits_per_weight == pytest.approx(4, rel=0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"preset": "tiny", "target_bpw": 3}, "`preset` and `target_bpw` exclude each other"),
        ({"preset": "tiny", "config": "a.toml"}, "`preset` and `config` exclude each other"),
        ({"calib": "a", "calib_tokens": "b"}, "`calib` and `calib_tokens` exclude each other"),
        ({"target_bpw": 0.1}, "target_bpw = 0.1 is not 1.0 or more"),
        ({"target_bpw": 3, "target_kl": 1}, "one of target_bpw, target_size, target_kl and bits"),
        ({"overrides": ["vte=bits=4"]}, "`overrides` 'vte' matches no tensor"),
        ({"preset": "huge"}, "there is no preset 'huge'; there are balanced, "),
        ({"max_memory": 1000}, "more than"),
    ],
)
def test_choices_that_contradict_each_other(
    checkpoint: rbe_cli.Checkpoint, tmp_path: Path, choices: dict[str, object], sentence: str
) -> None:
    with pytest.raises(rbe_cli.UsageError, match=sentence):
        rbe_cli.compress(checkpoint, tmp_path / "a.rbe", **choices)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists(checkpoint: rbe_cli.Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "a.rbe"
    rbe_cli.compress(checkpoint, out, calib_samples=FEW)
    with pytest.raises(rbe_cli.OutputError, match="exists"):
        rbe_cli.compress(checkpoint, out, calib_samples=FEW)
    found = rbe_cli.compress(checkpoint, out, target_bpw=3, calib_samples=FEW, force=True)
    assert out.stat().st_size == found.file_bytes


def test_a_tensor_with_nan_is_a_checkpoint_error(
    checkpoint: rbe_cli.Checkpoint, tmp_path: Path
) -> None:
    broken = dict(checkpoint.tensors)
    broken["ln_f.bias"] = np.full_like(broken["ln_f.bias"], np.nan)
    source = dataclasses.replace(checkpoint, tensors=broken)
    with pytest.raises(rbe_cli.RbeError):
        rbe_cli.compress(source, tmp_path / "a.rbe", calib_samples=FEW)
