"""Define GPT-2's configuration: the keys that change the result, and no others."""

import math
from typing import Any, Literal, get_args

import msgspec

from rbe_cli.errors import CheckpointError, UsageError
from rbe_cli.model.config_dialects import ACTIVATION_ALIASES, to_gpt2_names
from rbe_cli.model.end_of_text import end_of_text_ids
from rbe_cli.quoting import clipped, quoted

Activation = Literal["gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]


def activation_named(name: str) -> Activation:
    """Return the activation function that a configuration means by a name.

    Args:
        name: one of `Activation`, or of transformers' other names for these.

    Raises:
        UsageError: no such function is known.
    """
    for known in get_args(Activation):
        if ACTIVATION_ALIASES.get(name, name) == known:
            found: Activation = known
            return found
    names = ", ".join(sorted({*get_args(Activation), *ACTIVATION_ALIASES}))
    raise UsageError(f"the activation function {quoted(name)} is not one of {names}")


class Gpt2Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hold the sizes and options of a GPT-2 (Radford et al., 2019), under Hugging Face's names.

    Raises `CheckpointError` from `validate` if the numbers contradict each other.
    """

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None  # a tuple holds at least two

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Return the ids that end a text; there may be none."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def head_dim(self) -> int:
        """Return the elements of an attention head."""
        return self.n_embd // self.n_head

    def score_scale(self, layer: int) -> float:
        """Return the factor of a layer's attention scores; `layer` counts from 0."""
        scale = 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def validate(self) -> None:
        """Refuse sizes that cannot be a model.

        Raises:
            CheckpointError: naming the key at fault.
        """
        limits = {
            "vocab_size": 1 << 24,
            "n_positions": 1 << 20,
            "n_embd": 1 << 16,
            "n_layer": 1 << 12,
            "n_head": 1 << 12,
            "n_inner": 1 << 18,
        }
        for key, limit in limits.items():
            value = getattr(self, key)
            if not 1 <= value <= limit:
                raise CheckpointError(
                    f"config: {key} = {quoted(value)} is not between 1 and {limit}"
                )
        if self.n_embd % self.n_head:
            raise CheckpointError(
                f"config: n_embd = {self.n_embd} is not a multiple of n_head = {self.n_head}"
            )
        if not 0.0 <= self.layer_norm_epsilon < 1.0:
            raise CheckpointError(
                f"config: layer_norm_epsilon = {self.layer_norm_epsilon} is not from 0 to below 1"
            )
        self._validate_special_tokens()

    def _validate_special_tokens(self) -> None:
        ends = self.eos_token_ids
        bos = () if self.bos_token_id is None else (self.bos_token_id,)
        for key, tokens in (("bos_token_id", bos), ("eos_token_id", ends)):
            for token in tokens:
                if not 0 <= token < self.vocab_size:
                    raise CheckpointError(
                        f"config: {key} = {quoted(token)} is outside the vocabulary"
                    )
        # One list has one form only.
        if len(set(ends)) < len(ends) or (isinstance(self.eos_token_id, tuple) and len(ends) < 2):
            raise CheckpointError("config: a list of eos_token_id holds two ids or more, each once")

    @classmethod
    def from_hugging_face(
        cls, raw: dict[str, Any], generation_config: dict[str, Any] | None = None
    ) -> "Gpt2Config":
        """Read Hugging Face's configuration, with GPT-2's defaults for absent keys.

        The names of other dialects are understood too (`config_dialects.to_gpt2_names`).

        Special tokens outside the vocabulary are left out.

        Args:
            raw: the parsed `config.json`.
            generation_config: the parsed `generation_config.json`; None if there is none.

        Raises:
            CheckpointError: a key is missing, has the wrong type, or asks for something
                that would change the result and is not supported.
        """
        raw = to_gpt2_names(raw)
        activation = raw["activation_function"]
        if activation not in get_args(Activation):
            raise CheckpointError(
                f"config: activation_function = {quoted(activation)} is not supported"
            )
        known = {key: raw[key] for key in cls.__struct_fields__ if raw.get(key) is not None}
        known.setdefault("n_inner", 4 * raw["n_embd"] if isinstance(raw.get("n_embd"), int) else 0)
        known["eos_token_id"] = end_of_text_ids(raw, generation_config)
        _drop_tokens_outside_the_vocabulary(known)
        try:
            config = msgspec.convert(known, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config: {clipped(str(error), 200)}") from error
        config.validate()
        return config

    def to_hugging_face(self, dtype: str) -> dict[str, Any]:
        """Return a `config.json` with which the reference library computes the same.

        Args:
            dtype: of the weights beside it: `float32`, `float16` or `bfloat16`.
        """
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "torch_dtype": dtype,
            "n_ctx": self.n_positions,  # which files of 2019 name, and old programs read
            **msgspec.to_builtins(self),
        }


def _drop_tokens_outside_the_vocabulary(known: dict[str, Any]) -> None:
    """Keep those of `bos_token_id` and `eos_token_id` that the model can give.

    A list of one end becomes a number, and an empty one None.
    """
    vocab, bos = known.get("vocab_size"), known.get("bos_token_id")
    if not isinstance(vocab, int):
        return  # which is reported with the other wrong types
    if isinstance(bos, int) and not 0 <= bos < vocab:
        del known["bos_token_id"]
    ends = tuple(token for token in known["eos_token_id"] if 0 <= token < vocab)
    known["eos_token_id"] = ends if len(ends) > 1 else next(iter(ends), None)
