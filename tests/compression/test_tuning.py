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
    assert found.untuned == found.reconstructed
    assert found.untuned == pytest.approx(plain.quality.kl_divergence, rel=0.1)  # room for training
    assert tuned.quality.kl_divergence == min(found.untuned, found.tuned)
    assert found.tuned < found.untuned
    assert tuned.file_bytes <= 1.004 * plain.file_bytes  # each is within .2 % of the target


def test_what_is_worse_is_not_kept(checkpoint, tmp_path, monkeypatch):
    """The untuned tensors are kept, whatever goes wrong in the training."""

    def spoil(self, stored, training_steps):
        name = "h.0.ln_1.weight"
        return [
            own if own.name != name else self._encoder.vector(name, np.zeros(own.shape, np.float32))
            for own in stored
        ]

    monkeypatch.setattr(tuning.Tuning, "_trained", spoil)
    found = run(checkpoint, tmp_path / "a.rbe", Settings(3.0), tune=2)
    assert found.tuning.tuned > found.tuning.untuned
    assert found.quality.kl_divergence == found.tuning.untuned


def test_what_is_too_large_is_not_kept(checkpoint, tmp_path, monkeypatch):
    def enlarge(self, stored, training_steps):
        return [dataclasses.replace(own, data=bytes(own.data) + bytes(1000)) for own in stored]

    monkeypatch.setattr(tuning.Tuning, "_trained", enlarge)
    tuned = run(checkpoint, tmp_path / "a.rbe", Settings(3.0), tune=1)
    kept = tuned.quality.kl_divergence
    assert tuned.tuning == tuning.TuningReport(1, kept, kept)
    assert 2.94 < tuned.bits_per_weight < 3.006  # there was room for trained factors


def test_without_steps_the_untuned_tensors_are_kept(checkpoint, tmp_path):
    found = run(checkpoint, tmp_path / "a.rbe", Settings(3.0), tune=0)
    assert found.tuning == tuning.TuningReport(
        0, found.quality.kl_divergence, found.quality.kl_divergence
    )


class StoppedError(Exception):
    """Stop the run as a kill would."""


@pytest.mark.parametrize("stop", ["-corrected-10-8-0-h.1.attn.c_proj.weight", "tuning"])
def test_what_was_interrupted_goes_on(checkpoint, tmp_path, monkeypatch, stop):
    monkeypatch.setattr("rbe_cli.compression.tune.distillation._SAVED_EVERY", 2)
    run(checkpoint, tmp_path / "a.rbe", Settings(2.0), tune=3)
    save = WorkFolder.save

    def stopping(self, name, arrays):
        save(self, name, arrays)
        if name.endswith(stop):
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


def test_there_is_room_for_training_at_the_least_rate(checkpoint, tmp_path):
    found = run(checkpoint, tmp_path / "a.rbe", Settings(1.0), calib_samples=16, tune=2, force=True)
    assert found.tuning.tuned is not None
