"""Translate a model's configuration, under whatever names, to Hugging Face's names for GPT-2.

Hugging Face's `GPT2Config` itself has second names for four sizes. Training scripts such as
nanoGPT, and OpenAI's `hparams.json`, have their own. What asks for another model, or for a
computation that this tool does not have, is refused here by name.
"""

from collections.abc import Mapping
from typing import Any

from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import clipped, quoted

# Second name -> the name in Gpt2Config.
_SIZES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "block_size": "n_positions",
    "intermediate_size": "n_inner",
    "n_vocab": "vocab_size",
}
# Functions of transformers' ACT2FN -> the activation here that computes the same.
ACTIVATION_ALIASES = {
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_python_tanh": "gelu_new",
    "gelu_python": "gelu",
    "swish": "silu",
}
# GPT2Config's defaults.
_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "activation_function": "gelu_new",
}
# Keys that would change the result if they had another value than this one. Among those left
# out is `reorder_and_upcast_attn`, which only changes the order of rounding in half precision.
_ONLY_SUPPORTED: dict[str, Any] = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
}


def to_gpt2_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with GPT-2's names, and its defaults for what is absent.

    Args:
        raw: a parsed `config.json`, or what a training script saved of its settings.

    Raises:
        CheckpointError: it is of another model or a quantised one, asks for what is not
            supported, or gives two values for one size.
    """
    _refuse_other_models(raw)
    for key, supported in _ONLY_SUPPORTED.items():
        if raw.get(key) not in (None, supported):
            raise CheckpointError(f"config: {key} = {quoted(raw[key])} is not supported")
    named = dict(raw)
    for second, name in _SIZES.items():
        value = named.pop(second, None)
        if value is None:
            continue
        if type(value) is not int:
            raise CheckpointError(f"config: {second} = {quoted(value)} is not a whole number")
        if named.get(name) not in (None, value):
            raise CheckpointError(
                f"config: {second} = {quoted(value)} contradicts {name} = {quoted(named[name])}"
            )
        named[name] = value
    if named.get("n_positions") is None and named.get("n_ctx") is not None:
        named["n_positions"] = named["n_ctx"]
    if _is_nanogpt(raw):
        named.setdefault("activation_function", nanogpt_activation(raw))
    elif raw.get("model_type") == "gpt2":
        named = _DEFAULTS | named
    activation = named.setdefault("activation_function", "gelu_new")
    if isinstance(activation, str):
        named["activation_function"] = ACTIVATION_ALIASES.get(activation, activation)
    return named


def nanogpt_activation(raw: Mapping[str, Any]) -> str:
    """Return the activation of a model of nanoGPT or build-nanogpt.

    The settings of these models do not name it.

    The tanh approximation was used until nanoGPT had an option `bias`, and some months longer.
    """
    return "gelu" if "bias" in raw else "gelu_new"


def _is_nanogpt(raw: Mapping[str, Any]) -> bool:
    return "block_size" in raw and "model_type" not in raw


def dialect_notes(raw: Mapping[str, Any]) -> list[str]:
    """Return what was assumed about the configuration, one sentence each."""
    notes = []
    if _is_nanogpt(raw) and "activation_function" not in raw:
        notes.append(
            f"the settings are nanoGPT's: the activation is taken to be {nanogpt_activation(raw)}"
        )
    if raw.get("auto_map"):
        notes.append("the config names code of its own (auto_map), which is not run")
    return notes


def _refuse_other_models(raw: Mapping[str, Any]) -> None:
    model_type, named = raw.get("model_type"), raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else ""
    architecture = architecture if isinstance(architecture, str) else quoted(architecture)
    is_gpt2 = model_type == "gpt2" if model_type else architecture.startswith("GPT2")
    if (model_type or architecture) and not is_gpt2:
        told = ", ".join(
            f"{key} = {quoted(value)}"
            for key, value in (("model_type", model_type), ("architectures", architecture))
            if value
        )
        raise CheckpointError(f"config: only GPT-2 is supported, and this is another: {told}")
    quantisation = raw.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
        method = clipped(method, 40) if isinstance(method, str) else None
        raise CheckpointError(
            f"the checkpoint is already quantised ({method or 'quantization_config'}): rbe needs "
            "the original weights"
        )
