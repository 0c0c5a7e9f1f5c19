"""Check that a file that loses far more than its rates should cost is always an error."""

import numpy as np
import pytest
from compressing import run, with_tensors
from small_models import random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.codec import CodecOptions
from rbe_cli.codec.ectcq.encoded_matrix import encode_block
from rbe_cli.codec.registry import codec_named
from rbe_cli.compression.metric import Metric
from rbe_cli.compression.quality_check import MARGIN, NOISE, expect
from rbe_cli.compression.settings import Settings
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.compression.tensor_report import TensorReport
from rbe_cli.errors import QualityError

RUINED = "h.1.mlp.c_fc.weight"


@pytest.fixture
def ruin(monkeypatch):
    """Make the encoder clip the weights of one matrix to a twentieth of their size."""

    def encode(weights, *arguments):
        if weights.shape == (64, 130):  # `c_fc`
            largest = np.abs(weights).max() / 20
            weights = np.clip(weights, -largest, largest)
        return encode_block(weights, *arguments)

    monkeypatch.setattr("rbe_cli.codec.ectcq.encoded_matrix.encode_block", encode)


@pytest.mark.parametrize("rate", [6.0, 9.0, 12.0])
def test_a_ruined_matrix_is_named_and_no_file_is_written(checkpoint, tmp_path, ruin, rate):
    message = r"far above the .* should cost at most, .* of h\.\d\.mlp\.c_fc\.weight cost most"
    with pytest.raises(QualityError, match=message):
        run(checkpoint, tmp_path / "a.rbe", Settings(default_bits=rate))
    assert list(tmp_path.iterdir()) == [tmp_path / "a.rbe.work"]


def test_a_ruined_file_can_be_accepted(checkpoint, tmp_path, ruin):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(default_bits=9.0), force=True)
    assert (tmp_path / "a.rbe").exists()
    (warning,) = result.warnings
    assert "cost most" in warning


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_embd": 8, "n_head": 1, "n_inner": 1, "vocab_size": 3000},
        {"n_embd": 4, "n_head": 1, "n_inner": 3, "vocab_size": 7, "n_positions": 5},
        {"tie_word_embeddings": False, "activation_function": "relu"},
    ],
    ids=["odd", "narrow", "smallest", "untied"],
)
@pytest.mark.parametrize("samples", [1, 16])
def test_random_models_of_any_shape_are_accepted(tmp_path, changes, samples):
    config = small_config(**{"n_layer": 1} | changes)
    checkpoint = Checkpoint(config, random_tensors(config), None, "odd", "xxh3:0", 1)
    for settings in (
        Settings(default_bits=1.0),
        Settings(default_bits=3.0, objective="outputs"),
        Settings(default_bits=7.0, states=64, max_integer=7),
        Settings(default_bits=12.0),
        Settings(default_bits=2.0, default_codec="fixed"),
        Settings(default_bits=8.0, default_codec="fixed"),
        Settings(default_bits=3.0, default_codec="classic"),
    ):
        result = run(checkpoint, tmp_path / "a.rbe", settings, calib_samples=samples)
        assert result.warnings == []
        (tmp_path / "a.rbe").unlink()


def test_a_model_with_a_large_weight_is_accepted(checkpoint, tmp_path):
    weights = checkpoint.tensors[RUINED].copy()
    weights[3, 4] = 100
    changed = with_tensors(checkpoint, **{RUINED.replace(".", "__"): weights})
    for rate in (2.0, 8.0, 12.0):
        result = run(changed, tmp_path / f"{rate}.rbe", Settings(default_bits=rate))
        assert result.warnings == []


# What should be lost


def tensor_report(codec, bits, relative_error=0.5, name="a"):
    return TensorReport(name, (1000, 1000), codec, bits, relative_error, None)


def expected(*reports, losses=None):
    powers = {own.name: 9.0 for own in reports}
    losses = losses or {own.name: 1e-6 for own in reports}
    plans = [
        TensorPlan(
            own.name, own.shape, "linear", codec_named(own.codec),
            CodecOptions(bits=own.bits_per_weight), is_free=False,
        )
        for own in reports
    ]  # fmt: skip
    return expect(reports, plans, Metric({}, powers, losses, {}, None))


def test_a_coded_matrix_should_lose_a_quarter_with_each_bit():
    losses = [expected(tensor_report("ectcq", bits)).most for bits in (2.0, 3.0, 4.0)]
    assert losses[0] == pytest.approx(MARGIN * 9e-6 * 4.0**-2, rel=0.1)
    assert losses[0] / losses[1] == pytest.approx(4)
    assert losses[1] / losses[2] == pytest.approx(4)


def test_other_matrices_should_lose_what_their_errors_cost_if_these_fit_the_rate():
    classic = expected(tensor_report("classic", 8.0, 0.5)).most
    assert classic == pytest.approx(MARGIN * 9e-6 * 0.25)
    assert expected(tensor_report("fixed", 2.0, 0.3)).most == pytest.approx(MARGIN * 9e-6 * 0.09)
    assert expected(tensor_report("fixed", 8.0, 0.5)).most == pytest.approx(MARGIN * 9e-6 / 256)


def test_what_rounding_makes_is_never_too_much():
    nothing = expected(tensor_report("float32", 32.0, 0.0), losses={"b": 1.0})
    assert nothing.most == NOISE
    assert nothing.worst is None
    assert nothing.is_met(NOISE / 2)
    assert not nothing.is_met(2 * NOISE)
    assert not nothing.is_met(float("nan"))


def test_the_matrix_whose_errors_cost_most_is_the_worst():
    reports = [tensor_report("ectcq", 3.0, error, name) for name, error in [("a", 0.2), ("b", 0.1)]]
    assert expected(*reports).worst == "a"
    assert expected(*reports, losses={"a": 1e-6, "b": 9e-6}).worst == "b"
