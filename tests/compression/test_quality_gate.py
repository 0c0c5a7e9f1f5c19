"""Check that the promised quality of a preset or config is kept, or that no file is written."""

import pytest
from compressing import run

from rbe_cli.compression.settings import Settings, load_preset, preset_names
from rbe_cli.errors import QualityError, UsageError


def test_a_promise_that_is_missed_leaves_no_file(checkpoint, tmp_path):
    settings = Settings(2.0, max_kl_divergence=1e-9)
    with pytest.raises(QualityError, match=r"above the 1e-09 that the config promises"):
        run(checkpoint, tmp_path / "a.rbe", settings)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.rbe.work"]


def test_a_promise_that_was_missed_can_be_accepted_without_doing_the_work_again(
    checkpoint, tmp_path, monkeypatch
):
    settings = Settings(2.0, max_kl_divergence=1e-9)
    with pytest.raises(QualityError):
        run(checkpoint, tmp_path / "a.rbe", settings)
    monkeypatch.setattr("rbe_cli.codec.ectcq.encoded_matrix.encode_block", None)
    monkeypatch.setattr("rbe_cli.compression.text_writer.write", None)
    run(checkpoint, tmp_path / "a.rbe", settings, force=True, resume=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.rbe"]


def test_a_promise_that_is_missed_can_be_accepted(checkpoint, tmp_path):
    settings = Settings(2.0, max_kl_divergence=1e-9)
    result = run(checkpoint, tmp_path / "a.rbe", settings, force=True)
    assert result.quality.kl_divergence > 1e-9
    assert (tmp_path / "a.rbe").exists()


@pytest.mark.parametrize("promise", [0.0, -1.0, float("nan")])
def test_a_promise_must_be_positive(promise):
    with pytest.raises(UsageError, match="max_kl_divergence"):
        Settings(4.0, max_kl_divergence=promise).check("here")


def test_smaller_presets_promise_less():
    presets = [load_preset(name) for name in preset_names()]
    for by_rate in (True, False):  # fixed widths are a series of their own
        promised = [p.max_kl_divergence for p in presets if (p.target_bpw is not None) == by_rate]
        assert len(promised) > 1
        assert promised == sorted(promised, reverse=True)
