"""Check that the stages a compression declares are those that it reports."""

import pytest
from compressing import run

from rbe_cli.compression.pipeline import CompressOptions
from rbe_cli.compression.pipeline_stages import stages
from rbe_cli.compression.settings import Settings
from rbe_cli.progress import Outlook

CASES = {
    "size": (Settings(target_size=25_000), {}),
    "fixed": (Settings(default_bits=4, default_codec="fixed"), {}),
    "kl": (Settings(target_kl=0.05), {}),
    "fine": (Settings(8.0), {}),
    "partly exact": (Settings(14.0), {}),
    "outputs": (Settings(3.0, objective="outputs"), {}),
    "more text": (Settings(3.0), {"tune": 0}),
    "tuned": (Settings(3.0), {"tune": 2}),
}


@pytest.mark.parametrize(("settings", "options"), CASES.values(), ids=CASES)
def test_every_stage_is_declared_and_all_are_reported(checkpoint, tmp_path, settings, options):
    options = {"calib_samples": 4} | options
    declared = stages(checkpoint, CompressOptions(settings, **options))
    outlook, reported, found = Outlook(declared), [], []

    def progress(stage, done, total, note=""):
        reported.append(stage)
        outlook.report(stage, done, total)
        found.append(outlook.share or 0.0)

    run(checkpoint, tmp_path / "a.rbe", settings, progress=progress, **options)
    names = [stage.name for stage in declared]
    compiled = {stage for stage in reported if stage.startswith("compiling")}
    assert set(reported) - compiled == set(names)
    assert found == sorted(found)
    assert found[-1] > 0.5
    if "target_kl" not in settings.goals and "tune" not in options:
        assert found[-1] == 1


def test_a_text_is_not_written_where_one_is_given(checkpoint, tmp_path):
    settings = Settings(4.0)
    for given in ({"calib": tmp_path}, {"calib_tokens": tmp_path}):
        named = [stage.name for stage in stages(checkpoint, CompressOptions(settings, **given))]
        expected = ["rotating", "measuring layers", "encoding", "correcting drift", "evaluating"]
        assert named == expected


def test_more_work_costs_more(checkpoint):
    def cost(settings=None, **options):
        chosen = CompressOptions(settings or Settings(4.0), **options)
        return sum(stage.cost * stage.passes for stage in stages(checkpoint, chosen))

    assert cost() < cost(calib_samples=500)
    assert cost() < cost(Settings(4.0, states=32))
    assert cost() < cost(tune=0) < cost(tune=1) < cost(tune=100)
    assert cost() < cost(Settings(target_kl=0.01))
