"""Models loaded from real `.rbe` files."""

from itertools import cycle

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import float64, random_tensors, relative_error, small_config

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, encode_block
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed.fixed_encoder import encode_matrix
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.coded_vector import encode_scalar, encode_vector
from rbe_cli.container.header import Provenance
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.engine.load import MemoryLimit, _decode_within, load_model, load_weights
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.errors import PayloadError, UsageError
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn import parameters
from rbe_cli.nn.adam import Adam
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.gradients import loss_and_gradients
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.progress import no_progress
from rbe_cli.runtime.thread_team import get_team
from rbe_cli.weights.trellis_panels import TrellisPanels
from rbe_cli.weights.uniform_panels import UniformPanels

PROVENANCE = Provenance("test", "xxh3:0", "0", None, "none", 0, {})


def encode(tensor, step, transposed):
    """(bytes, decoded tensor)."""
    weights = np.ascontiguousarray(tensor.T if transposed else tensor)
    importance = np.linspace(0.2, 5.0, weights.shape[1])  # so that columns' steps differ
    blocks = tuple(
        encode_block(
            np.ascontiguousarray(weights[:, columns]),
            step,
            InputFactor.identity(len(weights)),
            OutputFactor.from_importance(importance[columns]),
        )
        for columns in column_blocks(weights.shape[1])
    )
    matrix = EncodedMatrix(weights.shape, float(np.float32(step)), blocks)
    return matrix.to_bytes(), matrix.decode().T if transposed else matrix.decode()


def encode_fixed(tensor, bits, transposed):
    """As `encode`, of a fixed rate."""
    weights = np.ascontiguousarray(tensor.T if transposed else tensor)
    outputs = tuple(
        OutputFactor.identity(columns.stop - columns.start)
        for columns in column_blocks(weights.shape[1])
    )
    matrix = encode_matrix(weights, bits, InputFactor.identity(len(weights)), outputs)
    return matrix.to_bytes(), matrix.decode().T if transposed else matrix.decode()


def stored_model(config, step, dense_matrix):
    """(stored tensors, decoded tensors) of a random checkpoint; one matrix stays float16."""
    stored, decoded = [], {}
    for name, tensor in random_tensors(config).items():
        if is_matrix(name) and name != dense_matrix:
            codec = "ectcq"
            data, decoded[name] = encode(tensor, step, is_embedding(name))
        else:
            codec = "float16" if name == dense_matrix else "float32"
            data = dense_tensor.encode(tensor, codec)
            decoded[name] = dense_tensor.decode(data, tensor.shape, codec)
        stored.append(StoredTensor(name, tensor.shape, codec, data))
    return stored, decoded


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize(
    ("step", "dense_matrix"), [(0.08, "wpe.weight"), (0.01, "wte.weight"), (1e-4, None)]
)
def test_loaded_model_equals_the_reference(tmp_path, engine, step, dense_matrix):
    config = small_config(tie_word_embeddings=dense_matrix is None)
    stored, decoded = stored_model(config, step, dense_matrix)
    path = tmp_path / "model.rbe"
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    with Container.open(path) as container:
        loaded = load_model(container, 1, no_progress)
    model = Gpt2(loaded.config, loaded.weights, load_kernels(engine, 1))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 30))
    expected = gpt2(tokens[0], float64(decoded), config)
    assert relative_error(model.forward(tokens)[0], expected) < 1e-4


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_loaded_model_of_fixed_rates_equals_the_reference(tmp_path, engine):
    config = small_config(tie_word_embeddings=True)
    stored, decoded = stored_model(config, 0.08, None)
    bits = cycle([2, 4, 8])
    for index, tensor in enumerate(stored):
        if tensor.codec == "ectcq":
            name, original = tensor.name, decoded[tensor.name]
            data, decoded[name] = encode_fixed(original, next(bits), is_embedding(name))
            stored[index] = StoredTensor(name, tensor.shape, "fixed", data)
    path = tmp_path / "model.rbe"
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    with Container.open(path) as container:
        loaded = load_model(container, 1, no_progress)
    model = Gpt2(loaded.config, loaded.weights, load_kernels(engine, 1))
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 30))
    expected = gpt2(tokens[0], float64(decoded), config)
    assert relative_error(model.forward(tokens)[0], expected) < 1e-4


def test_gamma_and_beta_stay_as_the_file_holds_them(tmp_path):
    """A scalar, entropy-coded or float16 vector is decoded once, when it is needed."""
    config = small_config(tie_word_embeddings=True)
    stored, decoded = stored_model(config, 0.08, None)
    forms = {"h.0.ln_1.weight": "scalar", "h.0.ln_1.bias": "coded", "ln_f.weight": "float16"}
    for index, tensor in enumerate(stored):
        values, codec = decoded[tensor.name], forms.get(tensor.name)
        if codec:
            data = {
                "scalar": lambda own: encode_scalar(np.full_like(own, 1.25)),
                "coded": lambda own: encode_vector(own, 0.01),
                "float16": lambda own: dense_tensor.encode(own, "float16"),
            }[codec](values)
            stored[index] = StoredTensor(tensor.name, tensor.shape, codec, data)
            decoded[tensor.name] = stored[index].decode()
    path = tmp_path / "model.rbe"
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    with Container.open(path) as container:
        loaded = load_model(container, 1, no_progress)
    model = Gpt2(loaded.config, loaded.weights, load_kernels("fast", 1))
    norm = model.blocks[0].ln_1
    for vector, codec in ((norm.gamma, "scalar"), (norm.beta, "coded")):
        assert isinstance(vector, CompressedVector)
        assert vector.codec == codec
        assert vector.kept_bytes == 0
    assert isinstance(model.ln_f.gamma, CompressedVector)
    assert isinstance(model.ln_f.beta, np.ndarray)
    usage = norm.memory_usage()
    assert usage.parameter_bytes == 4 + len(by_name(stored)["h.0.ln_1.bias"].data)
    assert usage.float32_bytes == 8 * config.n_embd
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 30))
    expected = gpt2(tokens[0], float64(decoded), config)
    assert relative_error(model.forward(tokens)[0], expected) < 1e-4
    assert norm.memory_usage().decoded_bytes == 8 * config.n_embd


def test_factors_of_the_classic_scheme_can_be_trained(tmp_path):
    config = small_config(tie_word_embeddings=True)
    stored = [
        StoredTensor(name, tensor.shape, "classic", classic(tensor, is_embedding(name)))
        if is_matrix(name)
        else StoredTensor(name, tensor.shape, "float32", dense_tensor.encode(tensor, "float32"))
        for name, tensor in random_tensors(config).items()
    ]
    path = tmp_path / "model.rbe"
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    with Container.open(path) as container:
        weights = load_weights(container, 1, lambda *progress: None)
    values = parameters.split(weights)
    kernels = load_kernels("fast", 1)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 12))
    adam, losses = Adam(), []
    for _ in range(6):
        model = Gpt2(config, parameters.join(weights, values), kernels)
        loss, gradients = loss_and_gradients(model, tokens)
        assert gradients.keys() == values.keys()
        losses.append(loss)
        values = adam.step(values, gradients, dict.fromkeys(values, 3e-3))
    assert losses[-1] < losses[0] - 0.1
    before = parameters.split(weights)
    for suffix in (".surfaces", ".coefficients"):
        name = f"h.0.mlp.c_fc.weight{suffix}"
        assert np.abs(values[name] - before[name]).max() > 0


def classic(tensor, transposed):
    weights = np.ascontiguousarray(tensor.T if transposed else tensor)
    return ClassicMatrix.encode(weights, 6, 16).to_bytes()


def by_name(stored):
    return {tensor.name: tensor for tensor in stored}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_matrices_of_fixed_rates_are_views_of_what_is_stored(bits):
    tensor = random_tensors(small_config())["wte.weight"]
    data, decoded = encode_fixed(tensor, bits, transposed=True)
    stored = np.frombuffer(data, np.uint8)
    matrix = StoredTensor("wte.weight", tensor.shape, "fixed", stored.data).resident()
    assert isinstance(matrix, UniformPanels)
    assert matrix.layout.bits == bits
    assert np.shares_memory(matrix.values, stored)
    np.testing.assert_array_equal(matrix.dense(), decoded.T)
    np.testing.assert_array_equal(matrix.columns(np.arange(len(tensor))), decoded)


def test_matrices_stay_integers():
    tensor = random_tensors(small_config())["wte.weight"]
    data, decoded = encode(tensor, 0.08, transposed=True)
    matrix = StoredTensor("wte.weight", tensor.shape, "ectcq", data).resident()
    assert isinstance(matrix, TrellisPanels)
    assert matrix.shape == tensor.shape[::-1]
    np.testing.assert_array_equal(matrix.columns(np.arange(len(tensor))), decoded)


@pytest.mark.parametrize("codec", ["ectcq", "fixed", "classic", "float16"])
def test_a_damaged_tensor_is_named(codec):
    with pytest.raises(PayloadError, match=r"tensor h\.0\.mlp\.c_fc\.weight: "):
        StoredTensor("h.0.mlp.c_fc.weight", (4, 4), codec, b"\xff" * 9).resident()


def coded_model(path, config, limit):
    """A model of entropy-coded matrices whose weights may take `limit` bytes."""
    with Container.open(path) as container:
        weights = _decode_within(limit, container, get_team(2))
    return LoadedModel(config, weights)


def nbytes(model):
    return sum(own.nbytes for name, own in model.weights.items() if is_matrix(name))


def test_layers_that_do_not_fit_stay_coded_and_give_the_same_bits(tmp_path):
    config = small_config(n_embd=96, n_inner=200, n_layer=8)
    path = tmp_path / "model.rbe"
    stored, _ = stored_model(config, 0.02, None)
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    whole = coded_model(path, config, 10**9)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 40)
    expected = Session(whole, team=get_team(2)).extend(0, tokens)
    needed, seen = nbytes(whole), set()
    limit = needed + 60_000
    while 8 not in seen:
        limit -= 4_000
        session = Session(coded_model(path, config, limit), team=get_team(2))
        if session.coded_layers not in seen:
            seen.add(session.coded_layers)
            np.testing.assert_array_equal(session.extend(0, tokens[:20]), expected[:20])
            for i in range(20, 40):
                found = session.decode([0], tokens[i : i + 1])
                np.testing.assert_array_equal(found[0], expected[i])
    assert {0, 8} < seen
    with pytest.raises(UsageError, match="more than `max_memory`"):
        coded_model(path, config, limit // 2)


def test_a_limit_counts_what_the_process_takes_already(tmp_path):
    config = small_config()
    path = tmp_path / "model.rbe"
    stored, _ = stored_model(config, 0.02, None)
    write_container(path, config=config, tensors=stored, tokenizer_json=None, provenance=PROVENANCE)
    with Container.open(path) as container:
        load_weights(container, 1, no_progress, MemoryLimit(10**10, 0))
        for limit in (MemoryLimit(10**6, 0), MemoryLimit(10**10, 10**10)):
            with pytest.raises(UsageError, match="more than `max_memory`"):
                load_weights(container, 1, no_progress, limit)
