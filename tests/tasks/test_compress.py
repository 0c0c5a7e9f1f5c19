import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from reference_gpt2 import gpt2, softmax
from safetensors.numpy import save_file
from small_models import float64, random_tensors, small_config

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.names import is_embedding, is_matrix, parameter_count, tensor_shapes
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.codec import dense
from rbe_cli.codec.matrix import EncodedMatrix
from rbe_cli.container.reader import Container
from rbe_cli.errors import CheckpointError, OutputError, UsageError
from rbe_cli.progress import no_progress
from rbe_cli.tasks import calibration
from rbe_cli.tasks.compress import CompressOptions, compress
from rbe_cli.tasks.settings import Override, Settings
from rbe_cli.tasks.workers import workers

FOUR_BITS = Settings(4.0)


def run(checkpoint, path, settings=FOUR_BITS, *, threads=2, progress=no_progress, **options):
    options = {"calib_samples": 16} | options
    with workers(threads) as executor:
        return compress(checkpoint, path, CompressOptions(settings, **options), executor, progress)


def decode(path):
    """Every tensor of a file, as a checkpoint has them."""
    tensors = {}
    with Container.open(path) as container:
        container.verify()
        for name, stored in container.tensors.items():
            if stored.codec in ("float16", "float32"):
                tensors[name] = dense.decode(stored.data, stored.shape, stored.codec)
                continue
            shape = stored.shape[::-1] if is_embedding(name) else stored.shape
            matrix = EncodedMatrix.from_bytes(stored.data, shape).decode()
            tensors[name] = matrix.T if is_embedding(name) else matrix
    return tensors


def relative(change, original):
    """Relative Frobenius error in float64."""
    return np.linalg.norm(change.astype(np.float64)) / np.linalg.norm(original.astype(np.float64))


def by_name(result):
    return {tensor.name: tensor for tensor in result.tensors}


def with_tensors(checkpoint, **changes):
    """The checkpoint with other tensors, their names' dots written as double underscores."""
    renamed = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    assert renamed.keys() <= checkpoint.tensors.keys()
    return dataclasses.replace(checkpoint, tensors=dict(checkpoint.tensors) | renamed)


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.integers(0, config.vocab_size, (30, config.n_positions)))
    return path


@pytest.fixture(scope="module")
def text(checkpoint, tokens_file):
    """What is drawn from the tokens for the compression below."""
    return calibration.from_token_file(checkpoint, tokens_file, 16, 7)


@pytest.fixture(scope="module")
def compressed(checkpoint, tokens_file, tmp_path_factory):
    """(result, decoded tensors) at 3 bits, calibrated on the tokens; not to be changed."""
    path = tmp_path_factory.mktemp("compressed") / "tiny.rbe"
    result = run(checkpoint, path, Settings(3.0), calib_tokens=tokens_file, seed=7, preset="small")
    return result, decode(path)


# Size


@pytest.mark.parametrize("target", [1.5, 2.0, 2.7, 4.0, 5.0, 8.0, 12.0])
def test_the_target_is_reached(checkpoint, tmp_path, progress, target):
    path = tmp_path / "a.rbe"
    result = run(checkpoint, path, Settings(target), progress=progress)
    assert result.bits_per_weight == pytest.approx(target, rel=0.01)
    with Container.open(path) as container:
        tokenizer_bytes = container.layout.sections["tokenizer"].size
        assert container.bits_per_weight == result.bits_per_weight
    counted = 8 * (path.stat().st_size - tokenizer_bytes) / parameter_count(checkpoint.config)
    assert result.bits_per_weight == counted
    assert result.file_bytes == path.stat().st_size
    assert result.ratio == checkpoint.weight_bytes / path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_out_of_reach_is_refused_and_leaves_nothing(checkpoint, tmp_path):
    settings = Settings(2.0, override=(Override("wte", "float32"),))
    with pytest.raises(UsageError, match=r"2\.0 bits a weight cannot be reached: the nearest is"):
        run(checkpoint, tmp_path / "a.rbe", settings)
    assert list(tmp_path.iterdir()) == []


# Reproducibility


def test_bytes_depend_on_nothing_but_the_options(checkpoint, tmp_path):
    def written(name, **options):
        run(checkpoint, tmp_path / name, **options)
        return (tmp_path / name).read_bytes()

    first = written("a", threads=1)
    assert written("again", threads=1) == first
    assert written("b", threads=2) == first
    assert written("c", threads=3) == first
    assert written("d", threads=2, seed=1) != first


# The report and the file


def test_the_file_holds_every_tensor(checkpoint, compressed):
    result, decoded = compressed
    shapes = tensor_shapes(checkpoint.config)
    assert {name: tensor.shape for name, tensor in decoded.items()} == shapes
    assert [(t.name, t.shape) for t in result.tensors] == list(shapes.items())
    assert all((t.codec == "ectcq") == is_matrix(t.name) for t in result.tensors)


def test_reported_bits_are_those_of_the_file(compressed):
    result, _ = compressed
    with Container.open(result.output) as container:
        for tensor in result.tensors:
            assert tensor.bits_per_weight == container.layout.tensors[tensor.name].bits_per_weight


def test_reported_errors_are_those_of_the_decoded_tensors(checkpoint, compressed):
    result, decoded = compressed
    for tensor in result.tensors:
        original = checkpoint.tensors[tensor.name]
        expected = relative(original - decoded[tensor.name], original)
        assert tensor.relative_error == pytest.approx(expected, rel=1e-5, abs=1e-12)
        assert expected < (1 if is_matrix(tensor.name) else 2**-11)


def test_reported_output_errors_are_those_on_the_calibration_s_inputs(
    checkpoint, model, compressed, text
):
    result, decoded = compressed
    inputs = {}

    def observe(name, values):
        if name.endswith(".weight"):
            inputs.setdefault(name, []).append(values.reshape(-1, values.shape[-1]).copy())

    for sequence in text.used:
        model.forward(sequence[None], observe=observe)
    for tensor in result.tensors:
        if tensor.name not in inputs:
            assert tensor.relative_output_error is None
            continue
        x = np.concatenate(inputs[tensor.name]).astype(np.float64)
        original, ours = checkpoint.tensors[tensor.name], decoded[tensor.name]
        if is_embedding(tensor.name):
            original, ours = original.T, ours.T
        expected = relative(x @ (original - ours), x @ original)
        assert tensor.relative_output_error == pytest.approx(expected, rel=1e-3)
        assert expected < 1.05 * tensor.relative_error  # what feedback is for


def test_reported_quality_is_that_on_text_the_codec_did_not_see(checkpoint, compressed, text):
    result, decoded = compressed
    originals, ours, config = float64(checkpoint.tensors), float64(decoded), checkpoint.config
    divergence, loss, reference_loss = [], [], []
    for tokens in text.held_out:
        p = softmax(gpt2(tokens, originals, config))[:-1]  # [n - 1, vocab]
        q = softmax(gpt2(tokens, ours, config))[:-1]
        targets = np.arange(len(tokens) - 1), tokens[1:]
        divergence.append(np.sum(p * np.log(p / q), axis=-1))
        loss.append(-np.log(q[targets]))
        reference_loss.append(-np.log(p[targets]))
    quality = result.quality
    assert quality.kl_divergence == pytest.approx(np.mean(divergence), rel=1e-4)
    assert quality.perplexity == pytest.approx(np.exp(np.mean(loss)), rel=1e-4)
    assert quality.reference_perplexity == pytest.approx(np.exp(np.mean(reference_loss)), rel=1e-4)
    assert quality.tokens == len(text.held_out) * 63
    assert 0 < quality.kl_divergence < 0.2


def test_provenance_tells_where_the_file_comes_from(checkpoint, compressed):
    result, _ = compressed
    with Container.open(result.output) as container:
        found = container.provenance
        assert container.config == checkpoint.config
        assert container.tokenizer_json() == checkpoint.tokenizer_json
    assert (found.source, found.source_hash) == ("tiny", checkpoint.source_hash)
    assert (found.tool_version, found.preset, found.seed) == (__version__, "small", 7)
    assert found.calibration == "tokens ids.npy"
    assert found.extra == {"target_bpw": 3.0} | dataclasses.asdict(result.quality)


def test_names_that_are_not_unicode_are_kept_readable(checkpoint, tokens_file, tmp_path):
    path, odd = tmp_path / "a.rbe", tmp_path / "ids\udcff.npy"
    odd.write_bytes(tokens_file.read_bytes())
    run(dataclasses.replace(checkpoint, source="caf\udce9"), path, calib_tokens=odd)
    with Container.open(path) as container:
        assert container.provenance.source == r"caf\udce9"
        assert container.provenance.calibration == r"tokens ids\udcff.npy"


def test_more_bits_lose_less(checkpoint, tmp_path, tokens_file):
    def divergence(target):
        options = {"calib_tokens": tokens_file, "force": True}
        result = run(checkpoint, tmp_path / "a.rbe", Settings(target), **options)
        return result.quality.kl_divergence

    found = [divergence(target) for target in (2.0, 4.0, 6.0, 8.0)]
    for more, less in pairwise(found):
        assert less < more / 4  # 16 at high rates


# Overrides


def test_overrides_are_honoured(checkpoint, tmp_path):
    path = tmp_path / "a.rbe"
    settings = Settings(
        9.0,
        override=(
            Override("attn", bits=5.0),
            Override(r"h\.0\.attn\.c_proj", "float32"),
            Override("wpe", "float16"),
            Override("ln_1", "float32"),
        ),
    )
    tensors, decoded = by_name(run(checkpoint, path, settings)), decode(path)
    for name, original in checkpoint.tensors.items():
        if name.startswith("h.0.attn.c_proj.") or ".ln_1." in name:
            assert tensors[name].codec == "float32"
            assert tensors[name].relative_error == 0
            np.testing.assert_array_equal(decoded[name], original)
        elif name == "wpe.weight":
            assert tensors[name].codec == "float16"
            np.testing.assert_array_equal(decoded[name], original.astype(np.float16))
        elif "attn" in name and is_matrix(name):
            assert tensors[name].bits_per_weight == pytest.approx(5, rel=0.02)
        elif is_matrix(name):
            assert tensors[name].bits_per_weight > 6


def test_without_a_matrix_to_encode_the_model_is_kept_as_it_is(checkpoint, tmp_path):
    path = tmp_path / "a.rbe"
    result = run(checkpoint, path, Settings(4.0, override=(Override("", "float32"),)))
    decoded = decode(path)
    for name, original in checkpoint.tensors.items():
        np.testing.assert_array_equal(decoded[name], original)
    assert result.quality.kl_divergence == 0
    assert result.quality.perplexity == result.quality.reference_perplexity


def test_values_beyond_float16_cannot_be_asked_to_be_float16(checkpoint, tmp_path):
    wpe = checkpoint.tensors["wpe.weight"].copy()
    wpe[63, 5] = -70000
    settings = Settings(6.0, override=(Override("wpe", "float16"),))
    with pytest.raises(UsageError, match=r"wpe\.weight .* float16"):
        run(with_tensors(checkpoint, wpe__weight=wpe), tmp_path / "a.rbe", settings)
    assert list(tmp_path.iterdir()) == []


# Unusual weights


def test_vectors_that_float16_would_ruin_are_kept_exactly(checkpoint, tmp_path):
    large = np.full(64, 1e5, np.float32)
    small = np.linspace(1e-8, 3e-7, 64, dtype=np.float32)
    changed = with_tensors(checkpoint, h__0__attn__c_proj__bias=small, ln_f__bias=large)
    tensors, decoded = by_name(run(changed, tmp_path / "a.rbe")), decode(tmp_path / "a.rbe")
    np.testing.assert_array_equal(decoded["h.0.attn.c_proj.bias"], small)
    np.testing.assert_array_equal(decoded["ln_f.bias"], large)
    assert tensors["ln_f.bias"].codec == tensors["h.0.attn.c_proj.bias"].codec == "float32"
    assert tensors["h.1.attn.c_proj.bias"].codec == "float16"


def test_matrices_of_zeros_stay_zeros(checkpoint, tmp_path):
    zeros = np.zeros((64, 64), np.float32)
    changed = with_tensors(
        checkpoint,
        h__0__attn__c_proj__weight=zeros,
        h__1__mlp__c_fc__weight=np.zeros((64, 130), np.float32),
    )
    result = run(changed, tmp_path / "a.rbe")
    decoded = decode(tmp_path / "a.rbe")
    for name in ("h.0.attn.c_proj.weight", "h.1.mlp.c_fc.weight"):
        np.testing.assert_array_equal(decoded[name], 0)
        assert by_name(result)[name].relative_error == 0
        assert by_name(result)[name].bits_per_weight < 1
    assert result.bits_per_weight == pytest.approx(4, rel=0.01)


def test_outliers_survive(checkpoint, tmp_path):
    weights = checkpoint.tensors["h.0.mlp.c_proj.weight"].copy()
    weights[7, 9] = 50
    changed = with_tensors(checkpoint, h__0__mlp__c_proj__weight=weights)
    settings = Settings(4.0, override=(Override("h.0.mlp.c_proj", bits=4.0),))
    run(changed, tmp_path / "a.rbe", settings)
    decoded = decode(tmp_path / "a.rbe")["h.0.mlp.c_proj.weight"]
    assert decoded[7, 9] == pytest.approx(50, rel=0.01)
    assert relative((weights - decoded)[8:], weights[8:]) < 0.15


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_weights_that_are_no_numbers_are_refused(config, tmp_path, name, value):
    tensors = random_tensors(config)
    tensors[name].flat[3] = value
    folder, path = tmp_path / "checkpoint", tmp_path / "a.rbe"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    raw = {key: getattr(config, key) for key in config.__struct_fields__}
    (folder / "config.json").write_text(json.dumps(raw))
    path.write_text("precious")
    with pytest.raises(CheckpointError, match=f"tensor {name} holds NaN or infinite values"):
        run(open_checkpoint(str(folder)), path, force=True)
    assert path.read_text() == "precious"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_overflow_are_refused(checkpoint, tmp_path):
    huge = np.full((64, 130), 3e38, np.float32)
    changed = with_tensors(checkpoint, h__0__mlp__c_fc__weight=huge)
    with pytest.raises(CheckpointError, match="overflow"):
        run(changed, tmp_path / "a.rbe")
    assert list(tmp_path.iterdir()) == []


# Unusual shapes


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"n_head": 1, "n_embd": 8, "n_inner": 1, "vocab_size": 3000},
        {"vocab_size": 2500, "n_positions": 2},
        {"activation_function": "relu", "scale_attn_by_inverse_layer_idx": True},
    ],
    ids=["untied", "narrow", "many tokens", "options"],
)
def test_any_shape_can_be_compressed(tmp_path, changes):
    config = small_config(**{"n_layer": 1} | changes)
    checkpoint = Checkpoint(config, random_tensors(config), None, "odd", "xxh3:0", 1)
    settings = Settings(9.0)  # a tiny model's header and vectors have their size
    result = run(checkpoint, tmp_path / "a.rbe", settings, calib_samples=8)
    decoded = decode(tmp_path / "a.rbe")
    assert result.bits_per_weight == pytest.approx(9, rel=0.01)
    for name, original in checkpoint.tensors.items():
        assert relative(decoded[name] - original, original) < 0.1
    with Container.open(tmp_path / "a.rbe") as container:
        assert container.tokenizer_json() is None


def test_a_context_of_one_token_predicts_nothing(tmp_path):
    config = small_config(n_positions=1, n_layer=1)
    checkpoint = Checkpoint(config, random_tensors(config), None, "odd", "xxh3:0", 1)
    with pytest.raises(UsageError, match="nothing to predict"):
        run(checkpoint, tmp_path / "a.rbe")


# The output


def test_an_existing_output_is_replaced_only_if_asked(checkpoint, tmp_path):
    path = tmp_path / "a.rbe"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        run(checkpoint, path)
    assert path.read_text() == "precious"
    run(checkpoint, path, force=True)
    assert decode(path).keys() == checkpoint.tensors.keys()


def test_an_existing_output_is_refused_before_any_work(checkpoint, tmp_path):
    class Unread(dict):
        def __getitem__(self, name):
            pytest.fail(f"{name} was read")

    path = tmp_path / "a.rbe"
    path.write_text("precious")
    with pytest.raises(OutputError):
        run(dataclasses.replace(checkpoint, tensors=Unread(checkpoint.tensors)), path)


# The checkpoint that ships with the package


def test_the_demo_at_four_bits(tmp_path):
    checkpoint = open_checkpoint("demo")
    ids = tmp_path / "ids.npy"
    rng = np.random.default_rng(0)
    np.save(ids, rng.integers(0, checkpoint.config.vocab_size, (5, 256)))
    result = run(checkpoint, tmp_path / "a.rbe", calib_tokens=ids, calib_samples=4)
    assert result.bits_per_weight == pytest.approx(4, rel=0.01)
    assert 0 < result.quality.kl_divergence < 0.1
