from typing import Any

import pytest

from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config


def test_defaults_are_those_of_gpt2(raw_config: dict[str, Any]) -> None:
    config = Gpt2Config.from_hugging_face(raw_config)
    assert config.n_inner == 4 * config.n_embd
    assert config.head_dim == 2
    assert config.layer_norm_epsilon == 1e-5
    assert config.scale_attn_weights
    assert not config.scale_attn_by_inverse_layer_idx
    assert config.tie_word_embeddings
    assert config.eos_token_id is None


def test_keys_that_change_the_result_are_kept(raw_config: dict[str, Any]) -> None:
    wanted = {
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-6,
        "n_inner": 12,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "tie_word_embeddings": False,
        "eos_token_id": 3,
    }
    config = Gpt2Config.from_hugging_face(raw_config | wanted)
    assert {key: getattr(config, key) for key in wanted} == wanted


def test_old_and_second_names_are_understood(raw_config: dict[str, Any]) -> None:
    del raw_config["n_positions"]
    config = Gpt2Config.from_hugging_face(
        raw_config | {"n_ctx": 9, "activation_function": "swish", "add_cross_attention": None}
    )
    assert config.n_positions == 9
    assert config.activation_function == "silu"


def test_end_markers_outside_the_vocabulary_are_dropped(raw_config: dict[str, Any]) -> None:
    raw_config |= {"eos_token_id": 6, "bos_token_id": -1}
    config = Gpt2Config.from_hugging_face(raw_config)
    assert (config.eos_token_id, config.bos_token_id) == (None, None)
    config = Gpt2Config.from_hugging_face(raw_config | {"eos_token_id": [2, 6, -1, 5]})
    assert config.eos_token_id == (2, 5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("activation_function", "tanh"),
        ("activation_function", ["gelu"]),
        ("layer_norm_epsilon", "1e-5"),
        ("layer_norm_epsilon", -1.0),
        ("layer_norm_epsilon", float("nan")),
        ("n_embd", 5),
        ("n_embd", True),
        ("n_embd", 0),
        ("n_head", 0),
        ("n_layer", -1),
        ("n_layer", 10**30),
        ("n_inner", 1 << 40),
        ("vocab_size", 2.5),
        ("vocab_size", None),
        ("n_positions", None),
        ("scale_attn_weights", "yes"),
        ("n_embd", int("9" * 4300)),
        ("hidden_size", [[]]),
        ("eos_token_id", [0] * 1001),
        ("eos_token_id", [0, 1 << 64]),
        ("activation_function", "x" * 100_000),
        ("pruned_heads", "x" * 100_000),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    raw_config: dict[str, Any], key: str, value: object
) -> None:
    with pytest.raises(CheckpointError, match=key) as caught:
        Gpt2Config.from_hugging_face(raw_config | {key: value})
    assert len(str(caught.value)) < 300
