"""Which of ggml's types llama.cpp gives the matrices of a GPT-2.

The mixes' types were compared with those of files that llama.cpp itself quantised.
"""

import pytest
from small_models import small_config

from benchmarks.peers import kquants

SIX_LAYERS = small_config(n_layer=6)


@pytest.mark.parametrize(
    ("wanted", "inputs", "given"),
    [
        ("Q2_K", 768, "Q2_K"),
        ("Q2_K", 192, "Q4_0"),
        ("Q3_K", 192, "Q4_0"),
        ("Q4_K", 1600, "Q5_0"),
        ("Q5_K", 192, "Q5_1"),
        ("Q6_K", 192, "Q8_0"),
        ("Q8_0", 192, "Q8_0"),
        ("Q6_K", 100, "F16"),
        ("Q8_0", 100, "F16"),
    ],
)
def test_rows_that_blocks_of_256_do_not_divide_get_another_type(wanted, inputs, given):
    assert kquants.fitting_type(wanted, inputs) == given


@pytest.mark.parametrize(
    ("mix", "part", "types"),
    [
        ("Q2_K", "attn.c_attn", "333333"),
        ("Q2_K", "attn.c_proj", "333333"),
        ("Q2_K", "mlp.c_fc", "222222"),
        ("Q2_K", "mlp.c_proj", "333333"),
        ("Q3_K_M", "attn.c_attn", "554444"),
        ("Q3_K_M", "attn.c_proj", "444444"),
        ("Q3_K_M", "mlp.c_fc", "333333"),
        ("Q3_K_M", "mlp.c_proj", "444444"),
        ("Q4_K_M", "attn.c_attn", "446446"),
        ("Q4_K_M", "attn.c_proj", "444444"),
        ("Q4_K_M", "mlp.c_proj", "446446"),
        ("Q5_K_M", "attn.c_attn", "556556"),
        ("Q5_K_M", "mlp.c_fc", "555555"),
        ("Q5_K_M", "mlp.c_proj", "556556"),
    ],
)
def test_a_mix_gives_the_layers_these_types(mix, part, types):
    found = [kquants.mixed_type(mix, f"h.{i}.{part}.weight", SIX_LAYERS) for i in range(6)]
    assert found == [f"Q{digit}_K" for digit in types]


def test_the_head_of_a_mix_has_six_bits_and_an_embedding_that_is_no_head_has_not():
    untied = small_config(tie_word_embeddings=False)
    assert kquants.mixed_type("Q4_K_M", "wte.weight", SIX_LAYERS) == "Q6_K"
    assert kquants.mixed_type("Q4_K_M", "lm_head.weight", untied) == "Q6_K"
    assert kquants.mixed_type("Q4_K_M", "wte.weight", untied) == "Q4_K"


def test_without_its_packages_there_are_no_k_quants(monkeypatch):
    monkeypatch.setattr(kquants, "find_spec", lambda name: None)
    assert not kquants.is_installed()
