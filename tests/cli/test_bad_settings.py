"""Presets, config files and rules that cannot be used: one sentence and its exit code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rbe_cli.compression.settings import preset_names

Refused = Callable[..., str]


def test_an_unknown_preset_lists_those_that_exist(refused: Refused, tmp_path: Path) -> None:
    sentence = refused(2, "compress", "demo", tmp_path / "a.rbe", "--preset", "huge")
    assert "there is no preset 'huge'" in sentence
    assert all(name in sentence for name in preset_names())


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        ("target_bpw = = 4", 3, "cannot be read: Invalid value"),
        ("target_bpw = 4\nbits = 3", 2, "is needed, not target_bpw = 4.0 and bits = 3.0"),
        ("", 2, "bits is needed, not none"),
        ('target_bpw = "4"', 2, "Expected `float | null`, got `str`"),
        ("target_bpw = 0.9", 2, "target_bpw = 0.9 is not 1.0 or more"),
        ("target_bpw = nan", 2, "target_bpw = nan is not 1.0 or more"),
        ('target_bpw = 4\n[[override]]\nmatch = "("', 2, "'(' is not a regular expression"),
        ('target_bpw = 4\n[[override]]\nmatch = "a"\ncodec = "zip"', 2, "codec = 'zip' is none of"),
        ('target_bpw = 4\n[[override]]\nmatch = "a"\nbit = 3', 2, "unknown field `bit`"),
        ("\x00", 3, "cannot be read"),
    ],
)
def test_a_config_file_that_is_none(
    refused: Refused, tmp_path: Path, content: str, code: int, sentence: str
) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text(content)
    arguments = ["compress", "demo", tmp_path / "a.rbe", "--config", settings]
    assert sentence in refused(code, *arguments)
    settings.unlink()
    assert f"the config file {settings} does not exist" in refused(4, *arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--override", "wte"], "--override 'wte' is not REGEX=codec=NAME"),
        (["--override", "wte=float16"], "--override 'wte=float16' is not REGEX=codec=NAME"),
        (["--override", "wte=kodec=float16"], "is not REGEX=codec=NAME or REGEX=bits=NUMBER"),
        (["--override", "wte=codec=zip"], "codec = 'zip' is none of"),
        (["--override", "wte=bits=many"], "--override 'wte=bits=many'"),
        (["--override", "wte=bits=99"], "bits = 99.0 is not between 1.0 and 12.0"),
        (["--override", "w(te=bits=4"], "'w(te' is not a regular expression"),
        (["--override", "vte=bits=4"], "--override 'vte' matches no tensor of the checkpoint"),
        (["--target-bpw", "0.5"], "target_bpw = 0.5 is not 1.0 or more"),
        (["--target-bpw", "nan"], "target_bpw = nan is not 1.0 or more"),
        (["--preset", "small", "--target-bpw", "3"], "exclude each other"),
        (["--preset", "small", "--config", "x.toml"], "exclude each other"),
        (["--calib", "x.txt", "--calib-tokens", "x.txt"], "exclude each other"),
    ],
)
def test_settings_that_cannot_be_used(
    refused: Refused, checkpoint: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    assert sentence in refused(2, "compress", checkpoint, tmp_path / "a.rbe", *options)
    assert not (tmp_path / "a.rbe").exists()


def test_a_target_that_overrides_put_out_of_reach(
    refused: Refused, checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--override", "wte=codec=float32", "--calib-samples", "8"]
    sentence = refused(2, "compress", checkpoint, tmp_path / "a.rbe", *options)
    assert "bits a weight cannot be reached with these rules" in sentence
    assert list(tmp_path.iterdir()) == []
