"""Sizes in bytes, divergences and rates that a file may be asked to have."""

import numpy as np
import pytest
from compressing import by_name, run

from rbe_cli.checkpoint.names import is_matrix
from rbe_cli.errors import UsageError
from rbe_cli.tasks.settings import Settings


@pytest.mark.parametrize("size", [20_000, 31_234, 60_000])
def test_a_size_is_met_and_not_exceeded(checkpoint, tmp_path, size):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(target_size=size))
    assert 0.985 * size <= result.file_bytes <= size


def test_a_size_without_room_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="5000 bytes are less than"):
        run(checkpoint, tmp_path / "a.rbe", Settings(target_size=5000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [0.1, 0.003, 0.0002])
def test_a_divergence_is_met_by_a_file_that_is_hardly_larger_than_need_be(
    checkpoint, tmp_path, target
):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(target_kl=target))
    assert 0.8 * target <= result.quality.kl_divergence <= target


def test_a_divergence_out_of_reach_is_refused(checkpoint, tmp_path):
    rough = Settings(target_kl=1e-9)
    with pytest.raises(UsageError, match="1e-09 cannot be reached: the nearest is"):
        run(checkpoint, tmp_path / "a.rbe", rough)


def test_one_rate_for_all_matrices(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(default_bits=5.0))
    for tensor in result.tensors:
        if is_matrix(tensor.name):
            assert tensor.bits_per_weight == pytest.approx(5.0, rel=0.01)


def test_the_objective_of_outputs_lowers_their_errors(checkpoint, tmp_path):
    """At the price of the divergence; a squared error then costs the same in every weight."""

    def errors(objective):
        result = run(checkpoint, tmp_path / f"{objective}.rbe", Settings(4.0, objective=objective))
        tensors = by_name(result)
        layers = [tensors[name] for name in tensors if name.startswith("h.") and is_matrix(name)]
        errors = np.array([t.relative_output_error for t in layers])
        sizes = np.array([checkpoint.tensors[t.name].size for t in layers])
        return errors, errors / np.sqrt(sizes), result.quality.kl_divergence

    (by_kl, _, divergence), (by_outputs, spread, worse) = errors("kl"), errors("outputs")
    assert by_outputs.mean() < 0.8 * by_kl.mean()
    assert spread.max() < 1.25 * spread.min()
    assert worse > divergence


def test_more_states_lose_less(checkpoint, tmp_path):
    def loss(states):
        settings = Settings(default_bits=4.0, states=states, objective="outputs")
        result = run(checkpoint, tmp_path / f"{states}.rbe", settings)
        errors = [t.relative_output_error for t in result.tensors if t.relative_output_error]
        return np.exp(np.mean(np.log(errors)))

    assert loss(64) < 0.995 * loss(8)


def test_settings_say_one_target():
    for given in (
        {},
        {"target_bpw": 4.0, "target_kl": 0.1},
        {"target_size": 9, "default_bits": 2.0},
    ):
        with pytest.raises(UsageError, match="one of target_bpw, target_size"):
            Settings(**given).check("here")
