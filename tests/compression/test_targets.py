"""Check that files meet targets of size, KL divergence and bits per weight."""

import dataclasses

import numpy as np
import pytest
from compressing import by_name, decode, run

from rbe_cli.compression.settings import Override, Settings
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import is_matrix


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


def test_a_divergence_that_lossy_coding_cannot_reach_is_met_by_exact_tensors(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(target_kl=1e-12))
    assert abs(result.quality.kl_divergence) <= 1e-12
    assert_exact(result, checkpoint, tmp_path / "a.rbe")


def test_a_divergence_that_rules_keep_out_of_reach_is_refused(checkpoint, tmp_path):
    rough = Settings(target_kl=1e-6, override=(Override("wte", bits=2.0),))
    with pytest.raises(UsageError, match="1e-06 cannot be reached with these rules: the nearest"):
        run(checkpoint, tmp_path / "a.rbe", rough, calib_samples=4)


# More room than lossy coding can use


def assert_exact(result, checkpoint, path):
    """Check that every tensor of the file equals the checkpoint's, bit for bit."""
    decoded = decode(path)
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(decoded[name].view(np.int32), tensor.view(np.int32))
    assert {tensor.relative_error for tensor in result.tensors} == {0.0}


@pytest.mark.parametrize("goal", [{"target_size": 10**6}, {"target_bpw": 40.0}], ids=str)
def test_a_target_that_holds_every_tensor_gives_an_exact_file(checkpoint, tmp_path, goal):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(**goal), calib_samples=2)
    assert result.quality.kl_divergence == 0
    assert {tensor.codec for tensor in result.tensors} == {"float32"}
    assert_exact(result, checkpoint, tmp_path / "a.rbe")
    # A byte less, and it is not all exact; the file is no larger than that.
    smaller = Settings(target_size=result.file_bytes - 1)
    less = run(checkpoint, tmp_path / "b.rbe", smaller, calib_samples=2)
    assert less.file_bytes < result.file_bytes
    same = Settings(target_size=result.file_bytes)
    again = run(checkpoint, tmp_path / "c.rbe", same, calib_samples=2)
    assert again.file_bytes == result.file_bytes


def test_values_that_float16_holds_are_kept_in_it(checkpoint, tmp_path):
    tensors = {
        name: tensor.astype(np.float16).astype(np.float32)
        for name, tensor in checkpoint.tensors.items()
    }
    tensors["wpe.weight"] = checkpoint.tensors["wpe.weight"]
    changed = dataclasses.replace(checkpoint, tensors=tensors)
    result = run(changed, tmp_path / "a.rbe", Settings(target_size=10**6), calib_samples=2)
    codecs = {tensor.name: tensor.codec for tensor in result.tensors}
    assert codecs.pop("wpe.weight") == "float32"
    assert set(codecs.values()) == {"float16"}
    assert_exact(result, changed, tmp_path / "a.rbe")


def test_beyond_twelve_bits_matrices_are_exact_one_by_one(checkpoint, tmp_path):
    exact, sizes = [], []
    for target in (12.5, 16.0, 24.0):
        result = run(checkpoint, tmp_path / f"{target}.rbe", Settings(target), calib_samples=2)
        matrices = [tensor for tensor in result.tensors if is_matrix(tensor.name)]
        exact.append({tensor.name for tensor in matrices if tensor.codec == "float32"})
        sizes.append(result.bits_per_weight)
        assert result.bits_per_weight <= 1.002 * target
        assert result.quality.kl_divergence < 5e-6
        rest = [t.bits_per_weight for t in matrices if t.name not in exact[-1]]
        assert max(rest) < 17
    assert exact[0] < exact[1] < exact[2]
    assert sizes == sorted(sizes)


def test_what_a_rule_says_holds_for_any_target(checkpoint, tmp_path):
    rules = Override("wpe", bits=5.0), Override("h.0.mlp", codec="float16")
    settings = Settings(target_size=10**6, override=rules)
    result = run(checkpoint, tmp_path / "a.rbe", settings, calib_samples=2)
    tensors = by_name(result)
    assert tensors["wpe.weight"].bits_per_weight == pytest.approx(5, rel=0.02)
    assert tensors["h.0.mlp.c_fc.weight"].codec == "float16"
    assert tensors["wte.weight"].codec == "float32"


# Other settings


def test_one_rate_for_all_matrices(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "a.rbe", Settings(default_bits=5.0))
    for tensor in result.tensors:
        if is_matrix(tensor.name):
            assert tensor.bits_per_weight == pytest.approx(5.0, rel=0.01)


def test_a_fixed_rate_takes_one_pass_over_the_text(checkpoint, tmp_path):
    """The file misses the nominal rate, and another pass would make the same file."""
    starts = []

    def progress(stage, done, total):
        if done == 0:
            starts.append(stage)

    settings = Settings(default_bits=4.0, default_codec="fixed")
    result = run(checkpoint, tmp_path / "a.rbe", settings, progress=progress)
    assert result.bits_per_weight > 4.1
    assert starts.count("correcting drift") == 1


def test_the_objective_of_outputs_lowers_their_errors(checkpoint, tmp_path):
    """It raises the KL divergence, because a squared error costs the same in every weight."""

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
