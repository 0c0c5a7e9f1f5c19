"""What a compression aims at: presets in configs/, a user's file of the same form, overrides."""

import math
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from rbe_cli.codec.codec import CodecOptions
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.codec.registry import CODECS, codec_named, matrix_codec_names
from rbe_cli.errors import BadFileError, NotFoundError, UsageError

DEFAULT_PRESET = "balanced"
MIN_BPW = 1.0
MAX_BITS = 12.0  # a weight of a matrix: what lossy coding is of use for (compression/target.py)
Objective = Literal["kl", "outputs"]
_OVERRIDE = re.compile(
    r"(?P<match>.+?)=(?P<pairs>(?:codec|bits|block)=[^=,]*(?:,(?:codec|bits|block)=[^=,]*)*)", re.S
)


def _check_codec(name: str | None) -> None:
    """Raise ValueError, which msgspec reports with its place, for a codec that there is not."""
    known = matrix_codec_names()
    if name is not None and name not in known:
        raise ValueError(f"codec = {name!r} is none of {', '.join(known)}")


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule for the tensors whose names match.

    Attributes:
        match: regular expression, searched for in the canonical name.
        codec: `ectcq`; `fixed`, of a fixed number of bits; `classic`, the original design's, to
            compare with; or `float16` or `float32` to leave the tensor as it is. None for the
            settings' own.
        bits: bits a weight of each such matrix, instead of its share of the target.
        block: rows and columns of the blocks of `classic`; None for the settings' own.
    """

    match: str
    codec: str | None = None
    bits: float | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """Refuse a codec that there is not."""
        _check_codec(self.codec)


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a preset gives on an English GPT-2 of 6 million parameters (docs/results.md).

    Attributes:
        kl_divergence: nats a token, on text that neither the model nor the codec saw.
        perplexity: of the compressed model on that text.
        reference_perplexity: of the original.
        tokens_per_second: decoded, with two threads.
    """

    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    tokens_per_second: float


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a preset or config file: one of the three targets, or `bits`.

    Attributes:
        target_bpw: bits a weight of the whole file without its tokenizer; beyond `MAX_BITS` a
            limit, within which tensors are stored exactly (compression/target.py).
        description: one line for people.
        override: rules; the last that matches a tensor holds.
        max_kl_divergence: nats a token on held-out text that the file must not exceed.
        default_codec: `codec` in the file; of tensors for which no rule names another.
        default_block: `block` in the file; of `classic`, see `Override`.
        default_bits: `bits` in the file; a weight of each matrix for which no rule names others.
        target_size: bytes of the whole file, which are not exceeded.
        target_kl: nats a token on held-out text that the smallest file will not exceed.
        objective: `kl`, the whole model's divergence is least at its size; `outputs`, the
            relative error of each layer's output is.
        states: of the trellis of `ectcq`: 8, 16, 32 or 64.
        max_integer: that `ectcq` may use in layers: 7 keeps them to 4 bits in memory.
        measured: what a preset gives.
    """

    target_bpw: float | None = None
    description: str = ""
    override: tuple[Override, ...] = ()
    max_kl_divergence: float | None = None
    default_codec: str = msgspec.field(default=ECTCQ.name, name="codec")
    default_block: int = msgspec.field(default=CodecOptions.block, name="block")
    default_bits: float | None = msgspec.field(default=None, name="bits")
    target_size: int | None = None
    target_kl: float | None = None
    objective: Objective = "kl"
    states: int = QuantiserOptions.states
    max_integer: int = QuantiserOptions.max_integer
    measured: Measured | None = None

    def __post_init__(self) -> None:
        """Refuse a codec that there is not."""
        _check_codec(self.default_codec)

    @property
    def goals(self) -> dict[str, float]:
        """Those of the targets and `bits` that are given; one, unless `check` refuses them."""
        values = {
            "target_bpw": self.target_bpw,
            "target_size": self.target_size,
            "target_kl": self.target_kl,
            "bits": self.default_bits,
        }
        return {name: value for name, value in values.items() if value is not None}

    def check(self, where: str) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: naming the value and `where` it stands.
        """
        if len(self.goals) != 1:
            given = " and ".join(f"{name} = {value}" for name, value in self.goals.items())
            raise UsageError(
                f"{where}: one of target_bpw, target_size, target_kl and bits is needed, "
                f"not {given or 'none'}"
            )
        above_zero = {
            "target_size": self.target_size,
            "target_kl": self.target_kl,
            "max_kl_divergence": self.max_kl_divergence,
        }
        for name, value in above_zero.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{where}: {name} = {value} is not above 0")
        if self.target_bpw is not None and not MIN_BPW <= self.target_bpw < math.inf:
            raise UsageError(f"{where}: target_bpw = {self.target_bpw} is not {MIN_BPW} or more")
        for bits in (self.default_bits, *(rule.bits for rule in self.override)):
            if bits is not None and not MIN_BPW <= bits <= MAX_BITS:
                raise UsageError(f"{where}: bits = {bits} is not between {MIN_BPW} and {MAX_BITS}")
        for rule in self.override:
            try:
                re.compile(rule.match)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(f"{where}: {rule.match!r} is no regular expression") from error
        for rule in (Override(""), *self.override):
            options = CodecOptions(
                bits=rule.bits or self.default_bits,
                block=self.default_block if rule.block is None else rule.block,
                states=self.states,
                max_integer=self.max_integer,
            )
            try:
                codec_named(rule.codec or self.default_codec).check_bits(options)
                for codec in CODECS.values():
                    codec.check_range(options)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error


def _presets_folder() -> Path:
    packaged = Path(str(files("rbe_cli"))) / "configs"
    return packaged if packaged.is_dir() else packaged.parent.parent / "configs"


def preset_names() -> list[str]:
    """Names of the presets in configs/, by ascending size."""
    found = [path.stem for path in _presets_folder().glob("*.toml")]
    by_size = {}
    for name in found:
        preset = load_preset(name)
        by_size[name] = preset.target_bpw is None, *preset.goals.values()
    return sorted(found, key=by_size.__getitem__)


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
        settings = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), Settings)
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
            f"`overrides` {text!r} is not REGEX=codec=NAME or REGEX=bits=NUMBER, "
            "or several such keys parted by commas"
        )
    pairs = [pair.split("=") for pair in parts["pairs"].split(",")]
    values = dict(pairs)
    if len(values) < len(pairs):
        raise UsageError(f"`overrides` {text!r} gives a key twice")
    try:
        return msgspec.convert({"match": parts["match"]} | values, Override, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"`overrides` {text!r}: {error}") from error
