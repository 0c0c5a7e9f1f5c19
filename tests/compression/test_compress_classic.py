"""Test the classic codec, from the settings to a running model."""

import numpy as np
import pytest
from compressing import by_name, decode, relative, run
from reference_gpt2 import gpt2
from small_models import float64, relative_error

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.compression.resource_forecast import plan
from rbe_cli.compression.settings import Override, Settings, parse_override
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_model
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress

CLASSIC = Settings(6.0, default_codec="classic", default_block=32)


@pytest.fixture(scope="module")
def compressed(checkpoint, tmp_path_factory):
    """Return (result, decoded tensors), with all matrices classic. Do not change them."""
    path = tmp_path_factory.mktemp("classic") / "tiny.rbe"
    return run(checkpoint, path, CLASSIC), decode(path)


def test_all_matrices_are_classic_and_all_vectors_dense(compressed):
    result, _ = compressed
    for tensor in result.tensors:
        assert is_matrix(tensor.name) == (tensor.codec == "classic")
        assert is_matrix(tensor.name) or tensor.codec == "float16"
    with Container.open(result.output) as container:
        assert container.codec_versions == {"classic": 1, "float16": 1}


def test_the_matrices_share_what_the_target_leaves(checkpoint, compressed):
    result, _ = compressed
    rates = [t.bits_per_weight for t in result.tensors if t.codec == "classic"]
    assert max(rates) - min(rates) < 0.02
    count = sum(t.size for t in checkpoint.tensors.values())
    bits = sum(t.bits_per_weight * checkpoint.tensors[t.name].size for t in result.tensors)
    assert bits / count == pytest.approx(6.0, rel=0.01)


def test_a_matrix_with_bits_of_its_own_leaves_the_rest_to_the_others(checkpoint, tmp_path):
    override = (Override("wte", bits=9.0),)
    settings = Settings(6.0, default_codec="classic", override=override)
    tensors = by_name(run(checkpoint, tmp_path / "a.rbe", settings))
    assert tensors["wte.weight"].bits_per_weight == pytest.approx(9.0, rel=0.01)
    sizes = {name: tensor.size for name, tensor in checkpoint.tensors.items()}
    bits = sum(tensors[name].bits_per_weight * size for name, size in sizes.items())
    assert bits / sum(sizes.values()) == pytest.approx(6.0, rel=0.01)


def test_the_report_is_that_of_the_decoded_tensors(checkpoint, compressed):
    result, decoded = compressed
    for tensor in result.tensors:
        original = checkpoint.tensors[tensor.name]
        error = relative(original - decoded[tensor.name], original)
        assert tensor.relative_error == pytest.approx(error, rel=1e-5, abs=1e-12)
        has_layer = tensor.codec == "classic" and tensor.name != "wpe.weight"
        assert (tensor.relative_output_error is not None) == has_layer
    assert 0 < by_name(result)["h.0.mlp.c_fc.weight"].relative_output_error < 1.5


def test_the_file_runs(checkpoint, compressed):
    result, decoded = compressed
    with Container.open(result.output) as container:
        loaded = load_model(container, 1, no_progress)
    model = Gpt2(loaded.config, loaded.weights, load_kernels("fast", 1))
    tokens = np.random.default_rng(0).integers(0, checkpoint.config.vocab_size, (1, 20))
    expected = gpt2(tokens[0], float64(decoded), checkpoint.config)
    assert relative_error(model.forward(tokens)[0], expected) < 1e-4


def test_rules_choose_matrices_bits_and_blocks(checkpoint, tmp_path):
    path = tmp_path / "a.rbe"
    rules = tuple(
        parse_override(text)
        for text in ("mlp=codec=classic,bits=9,block=16", r"^wte=bits=7,codec=classic")
    )
    result = run(checkpoint, path, Settings(7.0, override=rules))
    assert result.bits_per_weight == pytest.approx(7.0, rel=0.01)
    with Container.open(path) as container:
        for name, stored in container.tensors.items():
            if not is_matrix(name):
                continue
            chosen = "mlp" in name or name == "wte.weight"
            assert stored.codec == ("classic" if chosen else "ectcq")
            if not chosen:
                continue
            shape = stored.shape[::-1] if is_embedding(name) else stored.shape
            matrix = ClassicMatrix.from_bytes(stored.data, shape)
            assert matrix.block == (16 if "mlp" in name else 64)
            bits = by_name(result)[name].bits_per_weight
            assert bits == pytest.approx(9 if "mlp" in name else 7, rel=0.01)


def test_bytes_do_not_depend_on_the_threads(checkpoint, tmp_path):
    for threads in (1, 2):
        run(checkpoint, tmp_path / str(threads), CLASSIC, threads=threads)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_plan_names_the_codec(checkpoint):
    override = (Override("wpe", bits=3.0), Override("attn", "ectcq"))
    planned = plan(checkpoint, Settings(6.0, default_codec="classic", override=override))
    codecs = {tensor.name: tensor.codec for tensor in planned.tensors}
    assert codecs["wte.weight"] == codecs["wpe.weight"] == "classic"
    assert codecs["h.0.attn.c_attn.weight"] == "ectcq"
    assert codecs["ln_f.weight"] == "coded"
    assert planned.bits_per_weight == pytest.approx(6.0, rel=0.01)
