import numpy as np
import pytest
from small_models import random_tensors, small_config

from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.weights.on_demand import OnDemand


def streamed_model(kernels):
    """A streamed model, its tensors, and the names that are read, as they are read."""
    config, read = small_config(n_layer=2), []
    tensors = random_tensors(config)

    def weight(name):
        read.append(name)
        return tensors[name].T if is_embedding(name) else tensors[name]

    return Gpt2(config, OnDemand(tensors, weight), kernels, streamed=True), tensors, read


def test_a_streamed_model_computes_the_same(kernels):
    model, tensors, _ = streamed_model(kernels)
    tokens = np.arange(12).reshape(2, 6)
    whole = Gpt2.from_checkpoint(model.config, tensors, kernels)
    np.testing.assert_array_equal(model.forward(tokens), whole.forward(tokens))


def test_a_layer_is_read_when_it_is_used_and_each_time(kernels):
    model, _, read = streamed_model(kernels)
    assert not any(name.startswith("h.") for name in read)
    first, again = model.blocks[1], model.blocks[-1]
    assert first is not again
    assert read.count("h.1.mlp.c_fc.weight") == 2
    assert "h.0.mlp.c_fc.weight" not in read
    assert [len(model.blocks), len(model.blocks[1:])] == [2, 1]
    assert model.blocks[1:][0].name == first.name
    with pytest.raises(IndexError):
        model.blocks[2]
