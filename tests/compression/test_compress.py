import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from compressing import by_name, decode, relative, run, with_tensors
from reference_gpt2 import gpt2, softmax
from small_models import float64, random_tensors, small_config

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.compression import calibration
from rbe_cli.compression.decorrelated_heads import with_decorrelated_heads
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.compression.tensor_plan import make_plan
from rbe_cli.container.reader import Container
from rbe_cli.errors import OutputError, UsageError
from rbe_cli.model.tensor_names import is_embedding, is_matrix, parameter_count, tensor_shapes
from rbe_cli.nn.gpt2 import Gpt2


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("calibration") / "ids.npy"
    rng = np.random.default_rng(0)
    np.save(path, rng.integers(0, config.vocab_size, (30, config.n_positions)))
    return path


@pytest.fixture(scope="module")
def text(checkpoint, tokens_file):
    """Return the calibration text that the compression below draws from the tokens."""
    return calibration.from_token_file(checkpoint, tokens_file, 16, 7)


@pytest.fixture(scope="module")
def compressed(checkpoint, tokens_file, tmp_path_factory):
    """Return (result, decoded tensors) at 3 bits, calibrated on the tokens. Do not change them."""
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
    with pytest.raises(UsageError, match="2 bits a weight cannot be reached with these rules"):
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


def test_reported_errors_are_those_of_the_decoded_tensors(checkpoint, compressed, folder):
    result, decoded = compressed
    plans = make_plan(checkpoint.config, Settings(3.0))
    originals = with_decorrelated_heads(checkpoint.config, checkpoint.tensors, plans, folder)
    for tensor in result.tensors:
        original = originals[tensor.name]
        expected = relative(original - decoded[tensor.name], original)
        assert tensor.relative_error == pytest.approx(expected, rel=1e-5, abs=1e-12)
        # A matrix's may be anything: errors are fed where they do not count. Its bias absorbs them.
        assert is_matrix(tensor.name) or ".c_" in tensor.name or expected < 0.05


def output_errors(checkpoint, kernels, decoded, sequences, folder):
    """Return the relative error of each layer's outputs on these sequences, by weight name."""
    plans = make_plan(checkpoint.config, Settings(3.0))
    inputs, originals = (
        {},
        with_decorrelated_heads(checkpoint.config, checkpoint.tensors, plans, folder),
    )
    model = Gpt2.from_checkpoint(checkpoint.config, originals, kernels)

    def observe(name, values):
        if name.endswith(".weight"):
            inputs.setdefault(name, []).append(values.copy())

    for sequence in sequences:
        model.forward(sequence[None], observe=observe)
    found = {}
    for name, parts in inputs.items():
        x = np.concatenate(parts).astype(np.float64)
        original, ours = originals[name], decoded[name]
        if is_embedding(name):
            original, ours = original.T, ours.T
        found[name] = relative(x @ (original - ours), x @ original)
    return found


def test_reported_output_errors_are_those_on_the_calibration_s_inputs(
    checkpoint, kernels, compressed, text, folder
):
    result, decoded = compressed
    expected = output_errors(checkpoint, kernels, decoded, text.used, folder)
    for tensor in result.tensors:
        error = tensor.relative_output_error
        if tensor.name not in expected:
            assert error is None
        elif tensor.name == "wte.weight":  # the error of its other use counts, too
            assert 0 < error < tensor.relative_error
        else:
            assert error == pytest.approx(expected[tensor.name], rel=1e-3)
            assert error < tensor.relative_error  # what feedback is for


def test_an_untied_head_has_an_output_error_and_the_embedding_none(
    tmp_path, tokens_file, kernels, folder
):
    config = small_config(vocab_size=300, n_positions=64, n_layer=1, tie_word_embeddings=False)
    checkpoint = Checkpoint(config, random_tensors(config), None, "untied", "xxh3:0", 1)
    options = {"calib_tokens": tokens_file, "seed": 7}
    tensors = by_name(run(checkpoint, tmp_path / "a.rbe", Settings(6.0), **options))
    used = calibration.from_token_file(checkpoint, tokens_file, 16, 7).used
    expected = output_errors(checkpoint, kernels, decode(tmp_path / "a.rbe"), used, folder)
    error = tensors["lm_head.weight"].relative_output_error
    assert error == pytest.approx(expected["lm_head.weight"], rel=1e-3)
    assert tensors["wte.weight"].relative_output_error is None
    assert tensors["wpe.weight"].relative_output_error is None


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
    every = np.concatenate(divergence)
    assert quality.kl_divergence_p99 == pytest.approx(np.percentile(every, 99), rel=1e-3)
    assert quality.kl_divergence_max == pytest.approx(every.max(), rel=1e-3)
    assert quality.kl_divergence_error > 0
    assert 0.5 < quality.top_1_agreement < 1
    assert (quality.windows, quality.context) == (len(text.held_out), 64)
    assert quality.text == "ids.npy"
    assert 0 < quality.kl_divergence < 0.07


def test_provenance_tells_where_the_file_comes_from(checkpoint, compressed):
    result, _ = compressed
    with Container.open(result.output) as container:
        found = container.provenance
        assert container.config == checkpoint.config
        assert container.tokenizer_json() == checkpoint.tokenizer_json
    assert (found.source, found.source_hash) == ("tiny", checkpoint.source_hash)
    assert (found.tool_version, found.preset, found.seed) == (__version__, "small", 7)
    assert found.calibration == "tokens ids.npy"
    tokenizer = {"tokenizer_kind": "BPE", "tokenizer_tokens": 300}
    assert found.extra == {"target_bpw": 3.0} | dataclasses.asdict(result.quality) | tokenizer


def test_names_that_are_not_unicode_are_kept_readable(checkpoint, tokens_file, tmp_path):
    path, odd = tmp_path / "a.rbe", tmp_path / "ids\udcff.npy"
    odd.write_bytes(tokens_file.read_bytes())
    run(dataclasses.replace(checkpoint, source="caf\udce9"), path, calib_tokens=odd)
    with Container.open(path) as container:
        assert container.provenance.source == r"caf\udce9"
        assert container.provenance.calibration == r"tokens ids\udcff.npy"


def test_a_file_does_not_tell_where_its_source_lay(checkpoint, tokens_file, tmp_path):
    path = tmp_path / "a.rbe"
    source = "/home/somebody/secret project/models/tiny"
    run(dataclasses.replace(checkpoint, source=source), path, calib_tokens=tokens_file)
    content = path.read_bytes()
    for folder in (source.rpartition("/")[0], "somebody", str(tokens_file.parent), str(tmp_path)):
        assert folder.encode() not in content
    with Container.open(path) as container:
        assert container.provenance.source == "tiny"


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
    with pytest.raises(UsageError, match=r"wpe\.weight: .* float16"):
        run(with_tensors(checkpoint, wpe__weight=wpe), tmp_path / "a.rbe", settings)
    assert list(tmp_path.iterdir()) == []


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
    class Unread(dict[str, object]):
        def __getitem__(self, name):
            pytest.fail(f"{name} was read")

    path = tmp_path / "a.rbe"
    path.write_text("precious")
    with pytest.raises(OutputError):
        run(dataclasses.replace(checkpoint, tensors=Unread(checkpoint.tensors)), path)


# The checkpoint that ships with the package


def test_the_demo_at_four_bits(tmp_path):
    """Use an eighth of the usual text. All of it gives a KL divergence of .0082."""
    result = run(open_checkpoint("demo"), tmp_path / "a.rbe", calib_samples=16)
    assert result.bits_per_weight == pytest.approx(4, rel=0.01)
    assert 0 < result.quality.kl_divergence < 0.0105
