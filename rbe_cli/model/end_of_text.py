"""Find the tokens that end a text, where Hugging Face's configuration files name them."""

from collections.abc import Mapping
from typing import Any

from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import clipped, quoted

# What Hugging Face's `GPT2Config` assumes where a file does not say.
_GPT2_DEFAULT = (50256,)
_MAX_ENDS = 1000
# The second name stands in files of 2020, such as DialoGPT's.
_KEYS = ("eos_token_id", "eos_token_ids")


def end_of_text_ids(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None
) -> tuple[int, ...]:
    """Return the ids that end a text, each once, in the order of the file that names them.

    `generation_config` comes first, then `config`, then GPT-2's default of 50256. A value of
    null says that no token ends a text. Some ids may lie outside the vocabulary.

    Args:
        config: the parsed `config.json`.
        generation_config: the parsed `generation_config.json`; None if there is none.

    Raises:
        CheckpointError: a value is neither null, nor a token id, nor a list of token ids.
    """
    sources = (("generation_config", generation_config or {}), ("config", config))
    for name, source in sources:
        for key in _KEYS:
            if key in source:
                return _ids(f"{name}: {key}", source[key])
    return _GPT2_DEFAULT


def _ids(place: str, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if len(ids) > _MAX_ENDS or not all(map(_is_id, ids)):
        raise CheckpointError(f"{place} = {quoted(value)} is not a token id or a list of them")
    return tuple(dict.fromkeys(ids))


def _is_id(token: Any) -> bool:
    """Whether this is a number that 64 bits hold; a bool is none."""
    return type(token) is int and abs(token) < 1 << 63


def end_of_text_notes(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None, vocab_size: int
) -> list[str]:
    """Return a note on the ids that a file names although the model cannot give them."""
    ids = end_of_text_ids(config, generation_config)
    outside = [str(token) for token in ids if not 0 <= token < vocab_size]
    if not outside or ids is _GPT2_DEFAULT:
        return []
    return [
        f"end-of-text ids outside the vocabulary of {vocab_size} tokens are left out: "
        f"{clipped(', '.join(outside), 200)}"
    ]
