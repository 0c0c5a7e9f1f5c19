import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_gpt2 import gpt2

from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.checkpoint.torch_files.restricted_pickle import Inert
from rbe_cli.checkpoint.torch_files.torch_pickle import ItemType, Storage, View
from rbe_cli.checkpoint.torch_files.training_checkpoint import find_state_dict
from rbe_cli.errors import CheckpointError, NotFoundError

# Written by PyTorch, see make_training_fixtures.py.
FIXTURES = Path(__file__).parent / "fixtures"
TOKENS = np.array([3, 1, 4, 1, 5])


def view() -> View:
    return View(Storage(ItemType("float32", 4), "0", 4), 0, (4,), (1,))


def model() -> dict[str, Any]:
    return {"transformer.wpe.weight": view(), "transformer.wte.weight": view()}


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_checkpoint_of_nanogpt_needs_no_config(tmp_path: Path, as_folder: bool) -> None:
    path = tmp_path / "out" / "ckpt.pt"
    path.parent.mkdir()
    shutil.copy(FIXTURES / "nanogpt.pt", path)

    checkpoint = open_checkpoint(str(path.parent if as_folder else path))

    logits = gpt2(TOKENS, checkpoint.tensors, checkpoint.config)
    np.testing.assert_allclose(logits, np.load(FIXTURES / "nanogpt.npy"), atol=2e-6)
    assert len(checkpoint.notes) == 4
    # The optimizer's state, which is twice as large, does not count.
    biases = sum(tensor.nbytes for name, tensor in checkpoint.tensors.items() if "bias" in name)
    masks = checkpoint.config.n_layer * checkpoint.config.n_positions**2 * 4
    assert checkpoint.weight_bytes == (
        sum(tensor.nbytes for tensor in checkpoint.tensors.values()) - biases + masks
    )
    assert not any(tensor.any() for name, tensor in checkpoint.tensors.items() if "bias" in name)


def test_a_checkpoint_of_lightning_with_objects_of_all_kinds(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "lightning.ckpt", tmp_path / "last.ckpt")
    with pytest.raises(NotFoundError, match=r"no config\.json, which says the model's sizes"):
        open_checkpoint(str(tmp_path))
    raw = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 11}
    (tmp_path / "config.json").write_text(json.dumps(raw | {"n_positions": 6}))

    checkpoint = open_checkpoint(str(tmp_path))

    logits = gpt2(TOKENS, checkpoint.tensors, checkpoint.config)
    np.testing.assert_allclose(logits, np.load(FIXTURES / "lightning.npy"), atol=2e-6)
    assert checkpoint.notes == (
        "the prefix 'model.' of the tensors' names is left out",
        "the linear layers are stored [out, in], and are transposed",
    )


@pytest.mark.parametrize("keys", [[], ["model"], ["state_dict"], ["module"], ["any", "net"]])
def test_the_model_is_found_wherever_it_is(keys: list[str]) -> None:
    own = model()
    saved: Any = own
    for key in reversed(keys):
        saved = {key: saved, "optimizer": {"state": {0: {"exp_avg": view()}}}, "step": 3}
    found = find_state_dict(saved)
    assert found.state is own
    assert found.notes == ()


def test_an_average_beside_the_model_is_not_used_and_that_is_said() -> None:
    own = model()
    found = find_state_dict({"ema": model(), "model": own})
    assert found.state is own
    assert found.notes == ("not used: the weights under 'ema'",)


def test_several_models_are_refused() -> None:
    with pytest.raises(CheckpointError, match="several models \\('policy', 'reference'\\)"):
        find_state_dict({"policy": model(), "reference": model()})


def test_sizes_may_be_attributes_of_an_object() -> None:
    """build-nanogpt saves its GPTConfig, a dataclass."""
    config = Inert("__main__ GPTConfig")
    config.state = {"n_layer": 2, "n_embd": 8, "block_size": 6}
    assert find_state_dict({"model": model(), "config": config}).own_config == config.state
    assert find_state_dict({"model": model(), "config": {"lr": 0.1}}).own_config is None


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (Inert("transformers.models.gpt2.modeling_gpt2 GPT2LMHeadModel"), "GPT2LMHeadModel"),
        ([view()], "state dict"),
        ({}, "state dict"),
        ({"state": {0: {"exp_avg": view()}}, "param_groups": []}, "no state dict of a GPT-2"),
    ],
)
def test_what_holds_no_model_is_named(saved: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_state_dict(saved)


def test_a_dict_that_holds_itself_ends() -> None:
    loop: dict[str, Any] = {}
    loop |= {str(number): loop for number in range(1000)}
    with pytest.raises(CheckpointError, match="no state dict"):
        find_state_dict(loop)


@pytest.mark.parametrize("count", [16, 17])
def test_very_many_models_are_not_listed(count: int) -> None:
    fault = "17 models: save one" if count > 16 else r"several models \('m0', 'm1', "
    with pytest.raises(CheckpointError, match=fault):
        find_state_dict({f"m{number}": model() for number in range(count)})


@pytest.mark.parametrize(
    "key", ["model", "state_dict", "model_state_dict", "module", "model_state"]
)
def test_the_usual_key_comes_before_others(key: str) -> None:
    own = model()
    found = find_state_dict({"average": model(), key: own})
    assert found.state is own
    assert found.notes == ("not used: the weights under 'average'",)


@pytest.mark.parametrize("depth", [3, 4])
def test_a_model_lies_three_dicts_deep_at_most(depth: int) -> None:
    own = value = model()
    for number in range(depth):
        value = {f"k{number}": value}
    if depth == 3:
        assert find_state_dict(value).state is own
    else:
        with pytest.raises(CheckpointError, match="no tensor is named wpe"):
            find_state_dict(value)


@pytest.mark.parametrize("length", [200, 201])
def test_a_very_long_key_leads_nowhere(length: int) -> None:
    own = model()
    if length == 200:
        assert find_state_dict({"k" * length: own}).state is own
    else:
        with pytest.raises(CheckpointError, match="no tensor is named wpe"):
            find_state_dict({"k" * length: own})


@pytest.mark.parametrize(
    "key", ["model_args", "model_config", "config", "hyper_parameters", "hparams", "args"]
)
def test_sizes_lie_beside_the_model(key: str) -> None:
    sizes = {"n_layer": 2, "n_embd": 8, 3: "no name"}
    found = find_state_dict({"model": model(), key: sizes})
    assert found.own_config == {"n_layer": 2, "n_embd": 8}
    assert find_state_dict({"model": model(), key: {"n_layer": 2}}).own_config is None
