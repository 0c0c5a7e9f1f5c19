"""Names of tensors in GGUF files, to ours and back."""

import pytest

from rbe_cli.checkpoint.gguf.gguf_names import from_gguf_name, gguf_name
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import tensor_shapes

SIZES = {"vocab_size": 3, "n_positions": 2, "n_embd": 2, "n_head": 1, "n_inner": 2}
CONFIG = Gpt2Config(**SIZES, n_layer=12, tie_word_embeddings=False)
# Of llama.cpp's gguf-py (constants.py, MODEL_ARCH.GPT2).
THERE = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
    "h.0.ln_1.weight": "blk.0.attn_norm.weight",
    "h.11.attn.c_attn.bias": "blk.11.attn_qkv.bias",
    "h.2.attn.c_proj.weight": "blk.2.attn_output.weight",
    "h.3.ln_2.bias": "blk.3.ffn_norm.bias",
    "h.4.mlp.c_fc.weight": "blk.4.ffn_up.weight",
    "h.10.mlp.c_proj.bias": "blk.10.ffn_down.bias",
}


def test_every_name_has_its_own_there():
    names = list(tensor_shapes(CONFIG))
    assert THERE.keys() <= set(names)
    for name in names:
        assert from_gguf_name(gguf_name(name)) == name
    assert len({gguf_name(name) for name in names}) == len(names)
    assert {name: gguf_name(name) for name in THERE} == THERE


@pytest.mark.parametrize(
    "name",
    [
        "", "blk.0.attn_q.weight", "blk.0.attn_norm.scale", "blk.x.attn_norm.weight",
        "blk.0.attn_norm.weight.1", "rope_freqs.weight", "token_embd", "token_embd.weights",
        "output_norm.bias ", "blk.0.token_embd.weight", "attn_norm.weight",
    ],
)  # fmt: skip
def test_a_name_that_no_gpt2_has_stays(name):
    assert from_gguf_name(name) == name
