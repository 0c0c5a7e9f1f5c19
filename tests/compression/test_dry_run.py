"""Compare the time and quality that a dry run forecasts with those of the real run."""

import pytest

from rbe_cli.compression.dry_run import forecast, noise_kl
from rbe_cli.compression.pipeline import CompressOptions, compress
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.model.tensor_names import is_matrix


def test_noise_costs_a_quarter_for_each_bit(checkpoint, pool):
    matrices = [name for name in checkpoint.tensors if is_matrix(name)]
    costs = [noise_kl(checkpoint, dict.fromkeys(matrices, bits), pool) for bits in (4.0, 6.0)]
    assert costs[0] == pytest.approx(16 * costs[1], rel=1e-6)
    assert costs[0] > 0


@pytest.mark.parametrize("rate", [3.0, 6.0])
def test_the_divergence_is_of_the_right_size(checkpoint, pool, tmp_path, rate):
    options = CompressOptions(Settings(rate), calib_samples=16)
    found = forecast(checkpoint, options, pool)
    reached = compress(checkpoint, tmp_path / "a.rbe", options, pool).quality.kl_divergence
    assert found.expected_kl_divergence is not None
    assert reached / 5 < found.expected_kl_divergence < 5 * reached


def test_tuning_takes_time(checkpoint, pool):
    plain, tuned = (
        forecast(checkpoint, CompressOptions(Settings(4.0), tune=tune), pool).seconds
        for tune in (None, 1000)
    )
    assert tuned > 3 * plain > 0


def test_nothing_is_expected_where_nothing_is_coded(checkpoint, pool):
    settings = Settings(override=(Override("", "float16"),))
    found = forecast(checkpoint, CompressOptions(settings), pool)
    assert found.expected_kl_divergence is None
