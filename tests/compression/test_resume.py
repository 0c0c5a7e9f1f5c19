"""Check that a compression resumed after any stop gives the same bytes as one without a stop."""

import dataclasses

import pytest
from compressing import run

from rbe_cli.compression.pipeline import work_path
from rbe_cli.compression.settings import Settings
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder


@pytest.fixture(scope="module")
def expected(checkpoint, tmp_path_factory):
    """Return (bytes of the file, names of the parts that are saved while it is made)."""
    path, saved, save = tmp_path_factory.mktemp("whole") / "a.rbe", [], WorkFolder.save

    def recorded(folder, name, arrays):
        saved.append(name)
        save(folder, name, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "save", recorded)
        run(checkpoint, path)
    return path.read_bytes(), saved


class StoppedError(Exception):
    """Stop the run as a kill would, without any cleanup."""


def stop_after(count, monkeypatch):
    """Stop a run when it has saved so many parts."""
    save, done = WorkFolder.save, []

    def stopping(folder, name, arrays):
        if len(done) == count:
            raise StoppedError
        done.append(name)
        save(folder, name, arrays)

    monkeypatch.setattr(WorkFolder, "save", stopping)


ENCODED = (
    "bits-4.000000-attempt-0-h.",
    "bits-4.000000-corrected-10-8-0-wte",
    "bits-4.000000-corrected-10-8-0-h.",
)


def test_every_stage_saves_its_steps(expected):
    _, saved = expected
    for stage in ("text-", "state-", "gradient-", "cost-", *ENCODED):
        assert any(name.startswith(stage) for name in saved)


@pytest.mark.parametrize("part", range(8))
def test_a_run_that_was_stopped_goes_on(checkpoint, tmp_path, monkeypatch, expected, part):
    data, saved = expected
    count = part * (len(saved) - 1) // 7
    with monkeypatch.context() as patch:
        stop_after(count, patch)
        with pytest.raises(StoppedError):
            run(checkpoint, tmp_path / "a.rbe")
    assert list(tmp_path.iterdir()) == [work_path(tmp_path / "a.rbe")]
    again = []
    save = WorkFolder.save
    monkeypatch.setattr(
        WorkFolder, "save", lambda *arguments: (again.append(arguments[1]), save(*arguments))
    )
    run(checkpoint, tmp_path / "a.rbe", resume=True)
    assert (tmp_path / "a.rbe").read_bytes() == data
    missing = saved[count:]
    assert again[len(again) - len(missing) :] == missing
    assert len(again) - len(missing) <= 6  # a layer that was not finished is measured again
    assert list(tmp_path.iterdir()) == [tmp_path / "a.rbe"]


def test_resuming_what_was_never_begun_begins_it(checkpoint, tmp_path, expected):
    run(checkpoint, tmp_path / "a.rbe", resume=True)
    assert (tmp_path / "a.rbe").read_bytes() == expected[0]


@pytest.mark.parametrize("change", ["seed", "settings", "source", "tokenizer", "samples"])
def test_other_work_is_not_taken_up(checkpoint, tmp_path, monkeypatch, change):
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(StoppedError):
            run(checkpoint, tmp_path / "a.rbe")
    options = {
        "seed": {"seed": 1},
        "settings": {"settings": Settings(5.0)},
        "samples": {"calib_samples": 17},
    }
    if change == "source":
        checkpoint = dataclasses.replace(checkpoint, source_hash="xxh3:another")
    if change == "tokenizer":
        checkpoint = dataclasses.replace(checkpoint, tokenizer_json=b"{}")
    with pytest.raises(UsageError, match="another job"):
        run(checkpoint, tmp_path / "a.rbe", resume=True, **options.get(change, {}))
    assert work_path(tmp_path / "a.rbe").exists()
