"""What a compression aims at: presets in configs/, a user's file of the same form, overrides."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from rbe_cli.errors import BadFileError, NotFoundError, UsageError

DEFAULT_PRESET = "balanced"
MIN_BPW, MAX_BPW = 1.0, 12.0
Codec = Literal["ectcq", "float16", "float32"]


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule for the tensors whose names match.

    Attributes:
        match: regular expression, searched for in the canonical name.
        codec: `ectcq`, or `float16` or `float32` to leave the tensor as it is.
        bits: bits a weight of each such matrix, instead of its share of the target.
    """

    match: str
    codec: Codec = "ectcq"
    bits: float | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a preset or config file.

    Attributes:
        target_bpw: bits a weight of the whole file without its tokenizer.
        description: one line for people.
        override: rules; the last that matches a tensor holds.
    """

    target_bpw: float
    description: str = ""
    override: tuple[Override, ...] = ()

    def codec(self, name: str) -> Codec:
        """The codec asked for a tensor; `ectcq` means the best for its kind."""
        rule = self._rule(name)
        return rule.codec if rule else "ectcq"

    def bits(self, name: str) -> float | None:
        """Bits a weight asked for a matrix; None for its share of the target."""
        rule = self._rule(name)
        return rule.bits if rule else None

    def _rule(self, name: str) -> Override | None:
        matching = [rule for rule in self.override if re.search(rule.match, name)]
        return matching[-1] if matching else None

    def check(self, where: str) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: naming the value and `where` it stands.
        """
        if not MIN_BPW <= self.target_bpw <= MAX_BPW:
            raise UsageError(
                f"{where}: target_bpw = {self.target_bpw} is not between {MIN_BPW} and {MAX_BPW}"
            )
        for rule in self.override:
            try:
                re.compile(rule.match)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(f"{where}: {rule.match!r} is no regular expression") from error
            if rule.bits is not None and not MIN_BPW <= rule.bits <= MAX_BPW:
                raise UsageError(
                    f"{where}: bits = {rule.bits} is not between {MIN_BPW} and {MAX_BPW}"
                )


def _presets_folder() -> Path:
    packaged = Path(str(files("rbe_cli"))) / "configs"
    return packaged if packaged.is_dir() else packaged.parent.parent / "configs"


def preset_names() -> list[str]:
    """Names of the presets in configs/, by ascending size."""
    found = [path.stem for path in _presets_folder().glob("*.toml")]
    return sorted(found, key=lambda name: load_preset(name).target_bpw)


def load_preset(name: str) -> Settings:
    """A preset by name.

    Raises:
        UsageError: there is no such preset; the message lists those that exist.
    """
    path = _presets_folder() / f"{name}.toml"
    known = sorted(found.stem for found in path.parent.glob("*.toml"))
    if name not in known:
        raise UsageError(f"there is no preset {name!r}; there are {', '.join(known)}")
    return load_config(path)


def load_config(path: Path) -> Settings:
    """A preset or a user's config file (TOML).

    Raises:
        NotFoundError: there is no such file.
        BadFileError: it is not TOML.
        UsageError: a key is unknown or a value out of range.
    """
    try:
        settings = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Settings)
    except FileNotFoundError as error:
        raise NotFoundError(f"the config file {path} does not exist") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"config file {path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # of the file, its text or its TOML
        raise BadFileError(f"the config file {path} cannot be read: {error}") from error
    settings.check(f"config file {path}")
    return settings


def parse_override(text: str) -> Override:
    """An override from the command line, `REGEX=KEY=VALUE`.

    Raises:
        UsageError: it has another form, or an unknown key or value.
    """
    match, _, rest = text.rpartition("=")
    match, _, key = match.rpartition("=")
    if not match or key not in ("codec", "bits"):
        raise UsageError(f"--override {text!r} is not REGEX=codec=NAME or REGEX=bits=NUMBER")
    try:
        return msgspec.convert({"match": match, key: rest}, Override, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--override {text!r}: {error}") from error
