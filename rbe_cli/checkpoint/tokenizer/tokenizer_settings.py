"""Read the files beside a tokenizer's vocabulary that change the ids.

`tokenizer_config.json` names the class, its options and the special tokens. Older folders hold
`special_tokens_map.json` and `added_tokens.json` as well, which count only where
`tokenizer_config.json` has no `added_tokens_decoder`. All this follows transformers 5.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbe_cli.checkpoint.checked_files import read_json_object
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import quoted

if TYPE_CHECKING:
    from tokenizers import AddedToken

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
STANDARD_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
# Classes that are another one under their own name.
_SAME_CLASS = {
    "ConvBertTokenizer": "BertTokenizer",
    "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer",
    "LxmertTokenizer": "BertTokenizer",
    "MobileBertTokenizer": "BertTokenizer",
    "SqueezeBertTokenizer": "BertTokenizer",
    "MT5Tokenizer": "T5Tokenizer",
}
_MAX_TOKENS = 1 << 16  # that the files add to a vocabulary
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class UnsupportedTokenizerError(CheckpointError):
    """Raised when a tokenizer is whole but cannot be stored; the message says why."""


@dataclass(frozen=True)
class TokenizerSettings:
    """Hold what the files beside the vocabulary say.

    Attributes:
        class_name: the reference library's class, without a trailing `Fast`; None if no file
            names one.
        options: `tokenizer_config.json` as it is.
        named: special tokens by the name of their role, such as `bos_token`; None where a file
            says that there is none.
        extra: special tokens without a role.
        added: tokens that were added to the vocabulary, by the id that the files give.
    """

    class_name: str | None
    options: Mapping[str, Any]
    named: "Mapping[str, AddedToken | None]"
    extra: "tuple[AddedToken, ...]"
    added: "Mapping[int, AddedToken]"

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false; null counts as absent.

        Raises:
            CheckpointError: it is something else.
        """
        value = self.options.get(name)
        if value is not None and not isinstance(value, bool):
            raise CheckpointError(
                f"tokenizer_config.json: {name} = {quoted(value)} is not true or false"
            )
        return default if value is None else value

    def content(self, name: str, default: str | None) -> str | None:
        """Return the text of a named special token; None if a file says that there is none."""
        if name not in self.named:
            return default
        token = self.named[name]
        return None if token is None else token.content

    @property
    def contents(self) -> list[str]:
        """Return the texts of all tokens that the files add."""
        named = [token for token in self.named.values() if token is not None]
        return [token.content for token in (*named, *self.extra, *self.added.values())]


def read_settings(folder: Path, own_tokens: Iterable[Mapping[str, Any]] = ()) -> TokenizerSettings:
    """Read the settings in a folder.

    Args:
        folder: where the vocabulary lies.
        own_tokens: the `added_tokens` of a `tokenizer.json`.

    Raises:
        CheckpointError: a file is malformed; the message names it.
    """
    options = _read(folder, "tokenizer_config.json")
    named, extra = _special_tokens(options, "tokenizer_config.json")
    if "added_tokens_decoder" in options:
        place = "tokenizer_config.json: added_tokens_decoder"
        added = _added_tokens_decoder(options["added_tokens_decoder"], place)
    else:
        map_name = "special_tokens_map.json"
        raw_map = _read(folder, map_name)
        more_named, more_extra = _special_tokens(raw_map, map_name)
        named |= more_named
        if "extra_special_tokens" in raw_map or not extra:
            extra += more_extra
        usual = [named.get(role) for role in STANDARD_ROLES]
        special = {token.content for token in usual if token is not None}
        if "additional_special_tokens" not in raw_map:  # which transformers reads too late
            special |= {token.content for token in extra}
        added = _added_tokens(_read(folder, "added_tokens.json"), special)
        for raw in own_tokens:
            added[_id(raw.get("id"), "tokenizer.json")] = _token(raw, "tokenizer.json")
    by_content = {token.content: token for token in added.values()}
    named = {name: token and by_content.get(token.content, token) for name, token in named.items()}
    settings = TokenizerSettings(_class_name(folder, options), options, named, tuple(extra), added)
    if len(settings.contents) > _MAX_TOKENS:
        raise CheckpointError(f"{folder} adds more than {_MAX_TOKENS} tokens to its vocabulary")
    return settings


def _read(folder: Path, name: str) -> dict[str, Any]:
    return read_json_object(folder / name) if (folder / name).is_file() else {}


def _class_name(folder: Path, options: Mapping[str, Any]) -> str | None:
    """Return the class of the tokenizer, by its own configuration or the model's."""
    name = options.get("tokenizer_class") or _read(folder, "config.json").get("tokenizer_class")
    if not isinstance(name, str):
        return None
    name = name.removesuffix("Fast")
    return _SAME_CLASS.get(name, name)


def _special_tokens(
    raw: Mapping[str, Any], place: str
) -> "tuple[dict[str, AddedToken | None], list[AddedToken]]":
    """Return the tokens with a role, standard roles first, and those without."""
    extra = raw.get("extra_special_tokens") or raw.get("additional_special_tokens") or []
    roles = {name: raw[name] for name in STANDARD_ROLES if name in raw}
    roles |= {
        name: value
        for name, value in raw.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    if isinstance(extra, dict):
        roles, extra = roles | extra, []
    named = {
        name: None if value is None else _token(value, f"{place}: {name}", special=True)
        for name, value in roles.items()
    }
    if not isinstance(extra, list):
        raise CheckpointError(f"{place}: the extra special tokens are not a list")
    return named, [_token(value, f"{place}: extra special tokens", special=True) for value in extra]


def _added_tokens_decoder(raw: object, place: str) -> "dict[int, AddedToken]":
    """Return tokens by their id, which JSON can only hold as text."""
    if not isinstance(raw, dict):
        raise CheckpointError(f"{place} is not an object")
    return {_id(number, place): _token(value, place) for number, value in raw.items()}


def _added_tokens(raw: Mapping[str, Any], special: set[str]) -> "dict[int, AddedToken]":
    """Return the tokens of `added_tokens.json` (text -> id); special ones are not normalised."""
    place = "added_tokens.json"
    return {
        _id(number, place): _token({"content": content, "special": content in special}, place)
        for content, number in raw.items()
    }


def _id(value: object, place: str) -> int:
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value)
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise CheckpointError(f"{place}: {quoted(value)} is not a token id")
    return value


def _token(value: object, place: str, special: bool = False) -> "AddedToken":
    """Return a token that is given by its text, or by an object with `content` and flags."""
    from tokenizers import AddedToken

    raw = {"content": value, "special": special} if isinstance(value, str) else value
    if not isinstance(raw, Mapping) or not isinstance(raw.get("content"), str):
        raise CheckpointError(f"{place}: {quoted(value)} is not a token")
    flags = {name: raw[name] for name in _FLAGS if name in raw}
    if special:
        flags["special"] = True
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"{place}: a flag of {quoted(raw['content'])} is not true or false")
    return AddedToken(raw["content"], **flags)
