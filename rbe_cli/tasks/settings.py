"""What a compression aims at: presets in configs/, a user's file of the same form, overrides."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from rbe_cli.codec.classic import DEFAULT_BLOCK, MAX_BLOCK, MIN_BLOCK
from rbe_cli.errors import BadFileError, NotFoundError, UsageError

DEFAULT_PRESET = "balanced"
MIN_BPW, MAX_BPW = 1.0, 12.0
Codec = Literal["ectcq", "classic", "float16", "float32"]
_OVERRIDE = re.compile(
    r"(?P<match>.+?)=(?P<pairs>(?:codec|bits|block)=[^=,]*(?:,(?:codec|bits|block)=[^=,]*)*)", re.S
)


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule for the tensors whose names match.

    Attributes:
        match: regular expression, searched for in the canonical name.
        codec: `ectcq`; `classic`, the original design's, to compare with; or `float16` or
            `float32` to leave the tensor as it is. None for the settings' own.
        bits: bits a weight of each such matrix, instead of its share of the target.
        block: rows and columns of the blocks of `classic`; None for the settings' own.
    """

    match: str
    codec: Codec | None = None
    bits: float | None = None
    block: int | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a preset or config file.

    Attributes:
        target_bpw: bits a weight of the whole file without its tokenizer.
        description: one line for people.
        override: rules; the last that matches a tensor holds.
        max_kl_divergence: nats a token on held-out text that the file must not exceed.
        default_codec: `codec` in the file; of tensors for which no rule names another.
        default_block: `block` in the file; of `classic`, see `Override`.
    """

    target_bpw: float
    description: str = ""
    override: tuple[Override, ...] = ()
    max_kl_divergence: float | None = None
    default_codec: Codec = msgspec.field(default="ectcq", name="codec")
    default_block: int = msgspec.field(default=DEFAULT_BLOCK, name="block")

    def codec(self, name: str) -> Codec:
        """The codec asked for a tensor; vectors are dense whatever is asked for matrices."""
        rule = self._rule(name)
        return (rule and rule.codec) or self.default_codec

    def block(self, name: str) -> int:
        """Rows and columns of a matrix's blocks in the classic scheme."""
        rule = self._rule(name)
        return (rule and rule.block) or self.default_block

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
        if self.max_kl_divergence is not None and not self.max_kl_divergence > 0:
            raise UsageError(
                f"{where}: max_kl_divergence = {self.max_kl_divergence} is not above 0"
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
        for block in [self.default_block, *(rule.block for rule in self.override)]:
            if block is not None and not MIN_BLOCK <= block <= MAX_BLOCK:
                raise UsageError(
                    f"{where}: block = {block} is not between {MIN_BLOCK} and {MAX_BLOCK}"
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
    """An override from the command line, `REGEX=KEY=VALUE[,KEY=VALUE...]`.

    Raises:
        UsageError: it has another form, or an unknown key or value.
    """
    parts = _OVERRIDE.fullmatch(text)
    if not parts:
        raise UsageError(
            f"--override {text!r} is not REGEX=codec=NAME or REGEX=bits=NUMBER, "
            "or several such keys parted by commas"
        )
    pairs = [pair.split("=") for pair in parts["pairs"].split(",")]
    values = dict(pairs)
    if len(values) < len(pairs):
        raise UsageError(f"--override {text!r} gives a key twice")
    try:
        return msgspec.convert({"match": parts["match"]} | values, Override, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--override {text!r}: {error}") from error
