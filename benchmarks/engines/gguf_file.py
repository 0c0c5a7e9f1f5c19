"""A GPT-2 as a GGUF file: matrices in float16, all else in float32."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType

from rbe_cli.checkpoint.names import is_matrix
from rbe_cli.checkpoint.source import open_checkpoint

LAYER_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OTHER_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
}


def write_gguf(source: str, path: Path) -> None:
    """The checkpoint without a tokenizer, which would only make loading longer."""
    checkpoint = open_checkpoint(source)
    config = checkpoint.config
    writer = GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("h."):  # [in, out] -> [out, in]
            tensor = np.ascontiguousarray(tensor.T)
        is_half = is_matrix(name) and name != "wpe.weight"
        writer.add_tensor(gguf_name(name), tensor.astype(np.float16) if is_half else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """A canonical name as llama.cpp has it: `h.3.ln_1.bias` is `blk.3.attn_norm.bias`."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("h."):
        return f"{OTHER_NAMES[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"
