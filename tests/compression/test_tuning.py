"""Check that `compress --tune` brings a file closer to the original, at the same size."""

import dataclasses

import numpy as np
import pytest
from compressing import run

from rbe_cli.compression.pipeline import CompressOptions, _job
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tune import tuning
from rbe_cli.jobs.work_folder import WorkFolder

MIXED = (Override("mlp.c_fc", codec="float16"), Override("h.0.attn", codec="classic"))
CASES = {
    "2 bits": Settings(2.0),
    "fixed": Settings(default_bits=2, default_codec="fixed"),
    "mixed": Settings(4.5, override=MIXED),
    "size": Settings(target_size=25_000),
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_quality_rises_at_the_same_size(checkpoint, tmp_path, settings, progress):
    plain = run(checkpoint, tmp_path / "a.rbe", settings, calib_samples=64)
    tuned = run(
        checkpoint, tmp_path / "b.rbe", settings, calib_samples=64, tune=20, progress=progress
    )
    assert plain.tuning is None
    found = tuned.tuning
    assert found.untuned == plain.quality.kl_divergence
    assert tuned.quality.kl_divergence == min(found.untuned, found.reconstructed, found.tuned)
    assert found.reconstructed < found.untuned
    assert tuned.quality.kl_divergence < 0.97 * plain.quality.kl_divergence
    assert tuned.file_bytes <= 1.002 * plain.file_bytes


def test_what_is_worse_is_not_kept(checkpoint, tmp_path, monkeypatch):
    """The untuned tensors are kept, whatever goes wrong in either stage."""

    def spoil(self, stored, training_steps=0):
        name = "h.0.ln_1.weight"
        return [
            own if own.name != name else self._storing.vector(name, np.zeros(own.shape, np.float32))
            for own in stored
        ]

    monkeypatch.setattr(tuning.Tuning, "_reconstructed", spoil)
    monkeypatch.setattr(tuning.Tuning, "_trained", spoil)
    found = run(checkpoint, tmp_path / "a.rbe", Settings(3.0), tune=2)
    assert found.tuning.reconstructed == found.tuning.tuned > found.tuning.untuned
    assert found.quality.kl_divergence == found.tuning.untuned


def test_what_is_too_large_is_not_kept(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("rbe_cli.codec.ectcq.ectcq_codec._SURPLUS", -0.9)
    tuned = run(checkpoint, tmp_path / "a.rbe", Settings(3.0), tune=0)
    assert tuned.tuning == tuning.TuningReport(0, tuned.quality.kl_divergence)
    assert tuned.bits_per_weight == pytest.approx(3.0, rel=0.01)


class StoppedError(Exception):
    """Stop the run as a kill would."""


@pytest.mark.parametrize("stop", ["reconstructed-h.1.attn.c_proj.weight", "tuning"])
def test_what_was_interrupted_goes_on(checkpoint, tmp_path, monkeypatch, stop):
    monkeypatch.setattr("rbe_cli.compression.tune.distillation._SAVED_EVERY", 2)
    run(checkpoint, tmp_path / "a.rbe", Settings(2.0), tune=3)
    save = WorkFolder.save

    def stopping(self, name, arrays):
        save(self, name, arrays)
        if name == stop:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "save", stopping)
        with pytest.raises(StoppedError):
            run(checkpoint, tmp_path / "b.rbe", Settings(2.0), tune=3)
    run(checkpoint, tmp_path / "b.rbe", Settings(2.0), tune=3, resume=True)
    assert (tmp_path / "a.rbe").read_bytes() == (tmp_path / "b.rbe").read_bytes()


def test_another_number_of_steps_is_another_job(checkpoint, tmp_path):
    options = CompressOptions(Settings(2.0), tune=3)
    assert _job(checkpoint, options) != _job(checkpoint, dataclasses.replace(options, tune=4))
