"""Translate between canonical tensor names and the names in GGUF files.

Linear layers are stored `[out, in]` there, and `[in, out]` under canonical names.
"""

import re

_LAYER_PARTS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_OTHER_PARTS = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
}
_FROM_LAYER = {there: here for here, there in _LAYER_PARTS.items()}
_FROM_OTHER = {there: here for here, there in _OTHER_PARTS.items()}
_IN_LAYER = re.compile(r"blk\.(?P<layer>\d+)\.(?P<part>\w+)\.(?P<kind>weight|bias)")
_OUTSIDE = re.compile(r"(?P<part>\w+)\.(?P<kind>weight|bias)")


def gguf_name(name: str) -> str:
    """Return a canonical name as GGUF has it: `h.3.ln_1.bias` is `blk.3.attn_norm.bias`."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("h."):
        return f"{_OTHER_PARTS[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_LAYER_PARTS[part]}.{kind}"


def from_gguf_name(name: str) -> str:
    """Return the canonical name; a name that no GPT-2 has stays as it is."""
    if (found := _IN_LAYER.fullmatch(name)) and found["part"] in _FROM_LAYER:
        return f"h.{found['layer']}.{_FROM_LAYER[found['part']]}.{found['kind']}"
    if (found := _OUTSIDE.fullmatch(name)) and found["part"] in _FROM_OTHER:
        return f"{_FROM_OTHER[found['part']]}.{found['kind']}"
    return name
