"""Where a model's weights lie: shared, and in whatever form a vector has."""

import numpy as np
import pytest
from deadlines import run_together
from small_models import as_panels, random_tensors, small_config

from rbe_cli.engine.address_layout import AddressLayout
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.errors import UsageError
from rbe_cli.nn.layer_norm_parameters import compressed_vector
from rbe_cli.runtime.thread_team import get_team

TOKENS = np.arange(30)


def logits(weights):
    model = LoadedModel(small_config(), weights)
    return Session(model, team=get_team(1)).extend(0, TOKENS)


def test_parameters_of_layer_norms_may_be_numbers_or_compressed():
    config = small_config()
    weights = as_panels(random_tensors(config), 30)[0]
    gamma = compressed_vector(weights["h.1.ln_2.weight"], 5e-4)
    number = np.float32(0.3)
    dense = weights | {
        "h.0.ln_1.weight": np.full(config.n_embd, number),
        "ln_f.bias": np.full(config.n_embd, -number),
        "h.1.ln_2.weight": gamma.values,
    }
    found = logits(
        weights | {"h.0.ln_1.weight": number, "ln_f.bias": float(-number), "h.1.ln_2.weight": gamma}
    )
    np.testing.assert_array_equal(found, logits(dense))
    assert np.abs(found - logits(weights)).max() > 1e-3


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_checkpoints_embeddings_are_turned(is_tied):
    config = small_config(tie_word_embeddings=is_tied)
    tensors = random_tensors(config)
    model = LoadedModel.from_checkpoint(config, tensors)
    names = ["wte.weight", "wpe.weight", *([] if is_tied else ["lm_head.weight"])]
    for name, weight in model.weights.items():
        expected = tensors[name].T if name in names else tensors[name]
        np.testing.assert_array_equal(weight, expected)


def test_sessions_of_a_model_share_its_layout():
    config = small_config()
    model = LoadedModel(config, as_panels(random_tensors(config), 7)[0])
    found = []
    run_together([lambda: found.append(model.address_layout("auto"))] * 4)
    assert len({id(layout) for layout in found}) == 1
    assert model.address_layout("8") is not found[0]


@pytest.mark.parametrize("is_tied", [True, False])
def test_bytes_of_weights_that_a_token_reads(is_tied):
    config = small_config(tie_word_embeddings=is_tied)
    panels = as_panels(random_tensors(config), 30)[0]
    unread = {"wpe.weight"} if is_tied else {"wpe.weight", "wte.weight"}
    expected = sum(own.nbytes for name, own in panels.items() if name not in unread)
    layout = AddressLayout(config, panels, "auto")
    assert layout.weight_bytes == expected + 4 * config.vocab_size  # the head's bias of zeros


def test_weights_that_do_not_fit_the_config_are_refused():
    config = small_config()
    weights = as_panels(random_tensors(config), 30)[0]
    with pytest.raises(UsageError, match=r"tensor h\.1\.mlp\.c_fc\.bias has the shape \[3\], and"):
        LoadedModel(config, weights | {"h.1.mlp.c_fc.bias": np.zeros(3, np.float32)})
    with pytest.raises(UsageError, match=r"tensor h\.1\.mlp\.c_fc\.bias has the shape \[\], and"):
        LoadedModel(config, weights | {"h.1.mlp.c_fc.bias": np.float32(0)})
    del weights["ln_f.weight"]
    with pytest.raises(UsageError, match=r"the model needs a tensor ln_f\.weight"):
        LoadedModel(config, weights)
