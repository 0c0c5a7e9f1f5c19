"""Parameters of a loaded model that change, and the files that it is saved to."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rbe_cli
from rbe_cli.container.reader import Container
from rbe_cli.nn.layer_norm_parameters import CompressedVector

IDS = [3, 1, 4, 1, 5]
GAMMA = "h.0.ln_1.weight"
MATRIX = "h.1.mlp.c_fc.weight"
STEPS = f"{MATRIX}.column_steps"


@pytest.fixture(scope="session", params=["ectcq", "fixed", "classic"])
def any_file(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: rbe_cli.Checkpoint,
) -> Path:
    """A file whose layers have one of the codecs of matrices."""
    path = tmp_path_factory.mktemp("any") / "tiny.rbe"
    rules = [f"h\\.=codec={request.param},bits=4"]
    rbe_cli.compress(checkpoint, path, target_bpw=5, overrides=rules, calib_samples=8, force=True)
    return path


@pytest.fixture
def any_model(any_file: Path) -> Iterator[rbe_cli.Model]:
    with rbe_cli.load(any_file, threads=1) as model:
        yield model


def test_tensors_show_what_the_file_holds(model: rbe_cli.Model, rbe_file: Path) -> None:
    with Container.open(rbe_file) as container:
        placed = container.layout.tensors
    assert list(model.tensors) == list(placed)
    for name, tensor in model.tensors.items():
        own = placed[name]
        assert (tensor.shape, tensor.codec, tensor.nbytes) == (own.shape, own.codec, own.size)
        assert tensor.bits_per_weight == own.bits_per_weight
    assert repr(model.tensors[MATRIX]).startswith(f"<{MATRIX}: 64 x 130, ectcq, ")


def test_tensors_are_near_those_of_the_checkpoint(
    any_model: rbe_cli.Model, checkpoint: rbe_cli.Checkpoint
) -> None:
    for name, original in checkpoint.tensors.items():
        values = any_model.tensors[name].read()
        assert values.dtype == np.float32
        assert values.shape == original.shape
        if ".attn." not in name:  # whose heads a file may store in another basis
            error = np.linalg.norm(values - original) / np.linalg.norm(original)
            assert error < (1.0 if any_model.tensors[name].codec == "classic" else 0.2)
        np.testing.assert_array_equal(np.asarray(any_model.tensors[name]), values)


def test_a_tensor_that_is_read_is_a_copy(model: rbe_cli.Model) -> None:
    before = model.logits(IDS)
    model.tensors[GAMMA].read()[:] = 0
    np.testing.assert_array_equal(model.logits(IDS), before)


def test_a_model_without_changes_is_saved_byte_for_byte(
    any_model: rbe_cli.Model, any_file: Path, tmp_path: Path
) -> None:
    any_model.logits(IDS)
    size = any_model.save(tmp_path / "again.rbe")
    assert (tmp_path / "again.rbe").read_bytes() == any_file.read_bytes()
    assert size == any_file.stat().st_size


def test_a_changed_layer_norm_is_used_and_saved(
    any_model: rbe_cli.Model, any_file: Path, tmp_path: Path
) -> None:
    text = any_model.generate(IDS, max_tokens=20, seed=1).tokens
    gamma = 3 * any_model.tensors[GAMMA].read() + 0.1
    before = any_model.logits(IDS)
    any_model.tensors[GAMMA] = gamma
    after = any_model.logits(IDS)
    assert np.abs(after - before).max() > 0.01
    assert any_model.generate(IDS, max_tokens=20, seed=1).tokens != text
    np.testing.assert_array_equal(any_model.tensors[GAMMA].read(), gamma)
    any_model.save(tmp_path / "changed.rbe")
    with rbe_cli.load(tmp_path / "changed.rbe", threads=1) as loaded:
        np.testing.assert_array_equal(loaded.logits(IDS), after)
        np.testing.assert_array_equal(loaded.tensors[GAMMA].read(), gamma)
    with Container.open(tmp_path / "changed.rbe") as new, Container.open(any_file) as old:
        for name in old.tensors:
            same = bytes(new.tensors[name].data) == bytes(old.tensors[name].data)
            assert same is (name != GAMMA)
        assert new.provenance.extra["changed_tensors"] == 1
        assert "kl_divergence" in old.provenance.extra
        assert "kl_divergence" not in new.provenance.extra
        assert new.provenance.source_hash == old.provenance.source_hash


@pytest.mark.parametrize(
    ("values", "codec", "size"),
    [
        (np.full(64, 0.1, np.float32), "scalar", 4),
        (np.arange(64, dtype=np.float32), "float16", 128),
        (np.linspace(0.1, 1, 64, dtype=np.float32), "float32", 256),
    ],
)
def test_a_vector_takes_the_smallest_form_that_keeps_it(
    model: rbe_cli.Model, values: np.ndarray, codec: str, size: int, tmp_path: Path
) -> None:
    model.tensors[GAMMA] = values
    assert (model.tensors[GAMMA].codec, model.tensors[GAMMA].nbytes) == (codec, size)
    model.save(tmp_path / "vector.rbe")
    with rbe_cli.load(tmp_path / "vector.rbe") as loaded:
        np.testing.assert_array_equal(loaded.tensors[GAMMA].read(), values)


@pytest.mark.parametrize("name", [MATRIX, "wte.weight", "wpe.weight"])
def test_a_matrix_that_is_replaced_is_kept_exactly(
    model: rbe_cli.Model, name: str, tmp_path: Path
) -> None:
    values = model.tensors[name].read() * np.float32(1.5)
    model.tensors[name] = values
    expected = model.logits(IDS)
    assert model.tensors[name].codec == "float32"
    model.save(tmp_path / "dense.rbe")
    with rbe_cli.load(tmp_path / "dense.rbe", threads=1) as loaded:
        np.testing.assert_array_equal(loaded.tensors[name].read(), values)
        np.testing.assert_array_equal(loaded.logits(IDS), expected)


@pytest.mark.parametrize("factor", [0.5, 1.01, 2.0])
def test_changed_steps_are_saved_within_half_a_level(
    any_model: rbe_cli.Model, factor: float, tmp_path: Path
) -> None:
    parameters = any_model.parameters()
    if any_model.tensors[MATRIX].codec == "classic":  # which has no steps
        assert STEPS not in parameters
        return
    codec, nbytes = any_model.tensors[MATRIX].codec, any_model.tensors[MATRIX].nbytes
    wanted = factor * any_model.tensors[MATRIX].read()
    any_model.set_parameters({STEPS: factor * parameters[STEPS]})
    np.testing.assert_allclose(any_model.tensors[MATRIX].read(), wanted, rtol=1e-6)
    assert any_model.tensors[MATRIX].codec == codec
    any_model.save(tmp_path / "steps.rbe")
    with rbe_cli.load(tmp_path / "steps.rbe") as loaded:
        found = loaded.tensors[MATRIX].read()
        assert loaded.tensors[MATRIX].nbytes < 1.05 * nbytes
    octaves = {"ectcq": 1 / 64, "fixed": 1 / 16}[codec]
    near = wanted != 0
    assert np.abs(np.log2(found[near] / wanted[near])).max() <= octaves + 1e-4
    assert not found[~near].any()


def test_all_parameters_can_be_set_to_what_they_are(any_model: rbe_cli.Model) -> None:
    before = any_model.logits(IDS)
    any_model.set_parameters(any_model.parameters())
    np.testing.assert_array_equal(any_model.logits(IDS), before)


def test_steps_of_rows_are_parameters_where_a_file_holds_them(any_model: rbe_cli.Model) -> None:
    has_rows = f"{MATRIX}.row_steps" in any_model.parameters()
    assert has_rows is (any_model.tensors[MATRIX].codec == "fixed")
    if not has_rows:
        with pytest.raises(rbe_cli.UsageError, match="has no parameter"):
            any_model.set_parameters({f"{MATRIX}.row_steps": np.ones(64)})


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("h.9.ln_1.weight", np.ones(64), "the model has no tensor 'h.9.ln_1.weight'"),
        (GAMMA, np.ones(3), r"h.0.ln_1.weight has the shape \(64,\), not \(3,\)"),
        (GAMMA, 1.0, r"h.0.ln_1.weight has the shape \(64,\), not \(\)"),
        (GAMMA, np.full(64, np.nan), "h.0.ln_1.weight takes finite numbers within float32"),
        (GAMMA, np.full(64, 1e300), "h.0.ln_1.weight takes finite numbers within float32"),
        (GAMMA, ["a"] * 64, "h.0.ln_1.weight takes an array of numbers"),
    ],
)
def test_values_that_a_tensor_cannot_have(
    model: rbe_cli.Model, name: str, values: object, sentence: str
) -> None:
    before = model.logits(IDS)
    with pytest.raises(rbe_cli.UsageError, match=sentence):
        model.tensors[name] = values  # type: ignore[assignment]
    np.testing.assert_array_equal(model.logits(IDS), before)


def test_values_that_a_parameter_cannot_have(model: rbe_cli.Model) -> None:
    for values, sentence in (
        ({"h.0.nothing": [1.0]}, "has no parameter 'h.0.nothing'"),
        ({STEPS: np.zeros(130)}, "takes steps above 0"),
        ({STEPS: np.ones(3)}, r"has the shape \(130,\), not \(3,\)"),
        ({GAMMA: np.zeros(64), STEPS: np.zeros(130)}, "takes steps above 0"),
    ):
        before = model.logits(IDS)
        with pytest.raises(rbe_cli.UsageError, match=sentence):
            model.set_parameters(values)  # type: ignore[arg-type]
        np.testing.assert_array_equal(model.logits(IDS), before)


def test_a_file_that_exists_is_replaced_only_by_force(model: rbe_cli.Model, tmp_path: Path) -> None:
    path = tmp_path / "there.rbe"
    model.save(path)
    with pytest.raises(rbe_cli.OutputError, match="exists"):
        model.save(path)
    model.tensors[GAMMA] = np.ones(64)
    model.save(path, force=True)
    with rbe_cli.load(path) as loaded:
        assert loaded.tensors[GAMMA].codec == "scalar"


def test_a_layer_norm_stays_compressed_until_it_is_changed(model: rbe_cli.Model) -> None:
    norm = model.network.blocks[0].ln_1
    assert isinstance(norm.gamma, CompressedVector)
    gamma = model.parameters()[GAMMA]
    np.testing.assert_array_equal(norm.gamma.values, gamma)
    model.set_parameters({GAMMA: 2 * gamma})
    changed = model.network.blocks[0].ln_1
    np.testing.assert_array_equal(changed.gamma, 2 * gamma)
    assert isinstance(changed.beta, CompressedVector)
