"""A tensor as a file stores it: its orientation, its forms in memory, and whom its errors name."""

import numpy as np
import pytest

from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.registry import CODECS, codec_named
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import PayloadError
from rbe_cli.weights.weight_forms import dense

OF_MATRICES = [name for name, codec in CODECS.items() if codec.takes_matrices]


def stored(name, shape, codec):
    """Encode random values, as the writer does."""
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tensor = StoredTensor(name, shape, codec, b"")
    values = values.T if tensor.is_transposed else values
    job = EncodingJob(CodecOptions(8.0, is_asked=True), step=0.01)
    return StoredTensor(name, shape, codec, codec_named(codec).encode(values, job).data), values


@pytest.mark.parametrize("codec", OF_MATRICES)
@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight", "lm_head.weight"])
def test_an_embedding_is_stored_transposed_unless_its_codec_is_exact(name, codec):
    tensor, values = stored(name, (50, 24), codec)
    assert tensor.is_transposed == (not codec.startswith("float"))
    assert tensor.encoded_shape == values.shape
    assert tensor.matrix_shape == (24, 50)
    assert tensor.decode().shape == (50, 24)
    weights = codec_named(codec).decode(tensor.data, values.shape)
    expected = weights.T if tensor.is_transposed else weights
    np.testing.assert_array_equal(tensor.decode(), expected)
    np.testing.assert_array_equal(dense(tensor.resident()), expected.T)


@pytest.mark.parametrize("codec", OF_MATRICES)
def test_another_matrix_is_stored_as_it_is(codec):
    tensor, values = stored("h.0.mlp.c_fc.weight", (50, 24), codec)
    assert not tensor.is_transposed
    assert tensor.encoded_shape == tensor.matrix_shape == values.shape
    np.testing.assert_array_equal(dense(tensor.resident()), tensor.decode())


@pytest.mark.parametrize("codec", OF_MATRICES)
def test_a_coded_matrix_is_decoded_when_it_is_used(codec):
    tensor, _ = stored("wte.weight", (50, 24), codec)
    assert codec_named(codec).has_coded_form == (codec == "ectcq")
    if codec == "ectcq":
        np.testing.assert_array_equal(dense(tensor.coded()), tensor.decode().T)
    else:
        with pytest.raises(NotImplementedError, match=codec):
            tensor.coded()


@pytest.mark.parametrize("codec", [*OF_MATRICES, "coded", "scalar"])
def test_an_error_names_the_tensor(codec):
    shape = (50, 24) if codec in OF_MATRICES else (50,)
    tensor = StoredTensor("wpe.weight", shape, codec, b"xyz")
    for read in (tensor.decode, tensor.resident):
        with pytest.raises(PayloadError, match=r"^tensor wpe\.weight: "):
            read()
    if codec == "ectcq":
        with pytest.raises(PayloadError, match=r"^tensor wpe\.weight: "):
            tensor.coded()
