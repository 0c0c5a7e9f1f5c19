from typing import Any

import pytest

from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.config_dialects import dialect_notes

# What transformers 5.24's ACT2FN computes, compared numerically on -12 to 12.
SAME_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
OTHER_ACTIVATIONS = ["gelu_10", "laplace", "leaky_relu", "linear", "mish", "relu2", "relu6"]
OTHER_ACTIVATIONS += ["sigmoid", "tanh", "hardswish", "prelu", "xielu", "sqrtsoftplus", "Gelu"]


@pytest.mark.parametrize(("name", "same"), SAME_ACTIVATIONS.items())
def test_activations_of_the_same_function(raw_config: dict[str, Any], name: str, same: str) -> None:
    config = Gpt2Config.from_hugging_face(raw_config | {"activation_function": name})
    assert config.activation_function == same


@pytest.mark.parametrize("name", OTHER_ACTIVATIONS)
def test_activations_of_another_function_are_refused(raw_config: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError, match=f"activation_function = '{name}' is not supported"):
        Gpt2Config.from_hugging_face(raw_config | {"activation_function": name})


def test_second_names_of_sizes() -> None:
    config = Gpt2Config.from_hugging_face(
        {
            "model_type": "gpt2",
            "vocab_size": 7,
            "hidden_size": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 5,
            "intermediate_size": 12,
        }
    )
    sizes = (config.n_embd, config.n_layer, config.n_head, config.n_positions, config.n_inner)
    assert sizes == (8, 3, 2, 5, 12)


def test_openais_names() -> None:
    hparams = {"n_vocab": 7, "n_ctx": 5, "n_embd": 8, "n_head": 2, "n_layer": 3}
    config = Gpt2Config.from_hugging_face(hparams)
    assert (config.vocab_size, config.n_positions, config.n_inner) == (7, 5, 32)


def test_two_names_may_say_the_same(raw_config: dict[str, Any]) -> None:
    assert Gpt2Config.from_hugging_face(raw_config | {"hidden_size": 4}).n_embd == 4


@pytest.mark.parametrize(
    ("second", "name"),
    [
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
        ("max_position_embeddings", "n_positions"),
        ("block_size", "n_positions"),
        ("n_vocab", "vocab_size"),
    ],
)
def test_two_names_that_contradict_each_other_are_refused(
    raw_config: dict[str, Any], second: str, name: str
) -> None:
    with pytest.raises(CheckpointError, match=f"{second} = 99 contradicts {name}"):
        Gpt2Config.from_hugging_face(raw_config | {second: 99})


def test_absent_sizes_are_those_of_the_smallest_gpt2() -> None:
    config = Gpt2Config.from_hugging_face({"model_type": "gpt2"})
    sizes = (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head)
    assert sizes == (50257, 1024, 768, 12, 12)


@pytest.mark.parametrize(("extra", "activation"), [({"bias": False}, "gelu"), ({}, "gelu_new")])
def test_nanogpts_settings(extra: dict[str, Any], activation: str) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 3, "vocab_size": 5}
    raw = {**sizes, "dropout": 0.0, **extra}
    config = Gpt2Config.from_hugging_face(raw)
    assert (config.n_positions, config.activation_function) == (3, activation)
    [note] = dialect_notes(raw)
    assert note.endswith(f"the activation is taken to be {activation}")
    assert dialect_notes({"model_type": "gpt2", **sizes}) == []


def test_code_beside_the_config_is_not_run_and_that_is_said(raw_config: dict[str, Any]) -> None:
    [note] = dialect_notes(raw_config | {"auto_map": {"AutoModel": "modeling_x.X"}})
    assert "auto_map" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "only GPT-2 is supported.*model_type = 'llama'"),
        ({"model_type": None, "architectures": ["OPTForCausalLM"]}, "only GPT-2.*'OPTForCausalLM'"),
        ({"model_type": "gpt_neo", "architectures": ["GPTNeoModel"]}, "only GPT-2.*'GPTNeoModel'"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"already quantised \(gptq\): rbe needs the original weights",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, r"already quantised \(awq\)"),
        ({"quantization_config": {"load_in_8bit": True}}, "already quantised"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ],
)
def test_other_models_are_named(
    raw_config: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Gpt2Config.from_hugging_face(raw_config | change)


@pytest.mark.parametrize("architectures", [None, [], ["GPT2LMHeadModel"], ["GPT2DoubleHeadsModel"]])
def test_old_configs_without_a_model_type(
    raw_config: dict[str, Any], architectures: list[str] | None
) -> None:
    del raw_config["model_type"]
    config = Gpt2Config.from_hugging_face(raw_config | {"architectures": architectures})
    assert config.n_embd == 4
