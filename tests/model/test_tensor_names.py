import pytest

from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import (
    is_layer_norm,
    is_mask_buffer,
    is_matrix,
    parameter_count,
    tensor_shapes,
)

GPT2 = Gpt2Config(
    vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=3072
)


def test_gpt2_has_124_million_parameters() -> None:
    assert parameter_count(GPT2) == 124_439_808


def test_only_a_separate_head_is_a_tensor_of_its_own() -> None:
    untied = Gpt2Config(
        vocab_size=6,
        n_positions=4,
        n_embd=4,
        n_layer=1,
        n_head=2,
        n_inner=16,
        tie_word_embeddings=False,
    )
    assert tensor_shapes(untied)["lm_head.weight"] == (6, 4)
    assert "lm_head.weight" not in tensor_shapes(GPT2)


def test_matrices_are_the_tensors_of_two_dimensions() -> None:
    for name, shape in tensor_shapes(GPT2).items():
        assert is_matrix(name) == (len(shape) == 2)
        assert not is_mask_buffer(name)


@pytest.mark.parametrize("name", ["h.0.attn.bias", "h.11.attn.masked_bias"])
def test_mask_buffers(name: str) -> None:
    assert is_mask_buffer(name)
    assert not is_mask_buffer(name + ".weight")
    assert not is_matrix(name)


def test_parameters_of_layer_norms_are_known() -> None:
    found = {name for name in tensor_shapes(GPT2) if is_layer_norm(name)}
    layers = [f"h.{layer}.ln_{number}" for layer in range(12) for number in (1, 2)]
    expected = {f"{name}.{kind}" for name in (*layers, "ln_f") for kind in ("weight", "bias")}
    assert found == expected
