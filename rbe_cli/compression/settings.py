"""Define and check the settings of a compression: presets, config files and overrides."""

import math
import re
import tomllib
import warnings
from importlib.resources import files
from pathlib import Path

import msgspec

from rbe_cli.choices import Objective
from rbe_cli.codec.codec import CodecOptions
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.codec.registry import CODECS, codec_named, matrix_codec_names
from rbe_cli.errors import BadFileError, NotFoundError, UsageError
from rbe_cli.quoting import quoted

DEFAULT_PRESET = "balanced"
MIN_BPW = 1.0
_MAX_CONFIG_BYTES = 1 << 16  # the parser takes time as the square of a name's parts
_MAX_REPETITIONS = 4  # in the regular expression of an override
MAX_BITS = 12.0  # per weight: the highest rate at which lossy coding is useful (target.py)
_OVERRIDE = re.compile(
    r"(?P<match>.+?)=(?P<pairs>(?:codec|bits|block)=[^=,]*(?:,(?:codec|bits|block)=[^=,]*)*)", re.S
)


def _check_pattern(pattern: str, where: str) -> None:
    """Refuse what is no regular expression, or may take hours for the name of a tensor.

    A group that repeats may take time that is exponential in the name's length, and n other
    repetitions take its n-th power.

    Raises:
        UsageError: begins with `where`.
    """
    try:
        with warnings.catch_warnings():  # of what a later Python may read otherwise
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{where}: {quoted(pattern)} is not a regular expression") from error
    if re.search(r"\)[*+{]", pattern) or sum(map(pattern.count, "*+{")) > _MAX_REPETITIONS:
        raise UsageError(
            f"{where}: {quoted(pattern)} repeats a group, or more than {_MAX_REPETITIONS} parts: "
            "it might take hours"
        )


def _check_codec(name: str | None) -> None:
    """Raise `ValueError` if a codec is unknown. msgspec adds where in the file it stands."""
    known = matrix_codec_names()
    if name is not None and name not in known:
        raise ValueError(f"codec = {quoted(name)} is none of {', '.join(known)}")


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule that sets codec or bits of the tensors whose names match a pattern.

    Attributes:
        match: a regular expression that is searched for in the canonical name.
        codec: `ectcq`; `fixed`, with a fixed number of bits per weight; `classic`, the codec
            of the original design, for comparison; or `float16` or `float32` to keep the tensor
            exactly. None means `Settings.default_codec`.
        bits: bits per weight of each such matrix, instead of its share of the target.
        block: rows and columns of the blocks of `classic`; None means
            `Settings.default_block`.
    """

    match: str
    codec: str | None = None
    bits: float | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown codec."""
        _check_codec(self.codec)


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a preset gave on an English GPT-2 of 6 million parameters (docs/results.md).

    Attributes:
        kl_divergence: in nats per token, on text that neither the model nor the codec saw.
        perplexity: perplexity of the compressed model on that text.
        reference_perplexity: perplexity of the original on that text.
        tokens_per_second: generated tokens per second, with two threads.
    """

    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    tokens_per_second: float


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a preset or config file, which gives one of three targets, or `bits`.

    Attributes:
        target_bpw: bits per weight of the whole file without its tokenizer. Above `MAX_BITS` it
            is an upper limit, and tensors are stored exactly as far as it allows (target.py).
        description: one line that describes the preset.
        override: rules. If several match a tensor, the last one applies.
        max_kl_divergence: the largest KL divergence on held-out text that is accepted, in nats
            per token.
        default_codec: `codec` in the file; the codec of tensors for which no rule names one.
        default_block: `block` in the file; the block size of `classic`, see `Override`.
        default_bits: `bits` in the file; the bits per weight of each matrix for which no rule
            gives any.
        target_size: the largest size of the whole file in bytes.
        target_kl: the largest KL divergence on held-out text, in nats per token. The smallest
            file that keeps to it is searched.
        objective: what is minimised at the given size. `kl`: the KL divergence of the whole
            model. `outputs`: the relative error of each layer's output.
        states: the number of states of the trellis of `ectcq`: 8, 16, 32 or 64.
        max_integer: the largest magnitude of the integers of `ectcq` in the layers. With 7 they
            take 4 bits in memory.
        measured: what was measured with the preset.
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
        """Refuse an unknown codec."""
        _check_codec(self.default_codec)

    @property
    def goals(self) -> dict[str, float]:
        """Return those of the targets and `bits` that are given. `check` allows only one."""
        values = {
            "target_bpw": self.target_bpw,
            "target_size": self.target_size,
            "target_kl": self.target_kl,
            "bits": self.default_bits,
        }
        return {name: value for name, value in values.items() if value is not None}

    def check(self, where: str) -> None:
        """Refuse values that are out of range.

        Args:
            where: where the settings come from, as the error message begins.

        Raises:
            UsageError: a value is out of range, or not exactly one target is given. The message
                names the value.
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
            _check_pattern(rule.match, where)
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
    """Return the names of the presets in configs/, by ascending size of their files."""
    found = [path.stem for path in _presets_folder().glob("*.toml")]
    by_size = {}
    for name in found:
        preset = load_preset(name)
        by_size[name] = preset.target_bpw is None, *preset.goals.values()
    return sorted(found, key=by_size.__getitem__)


def load_preset(name: str) -> Settings:
    """Load a preset by its name.

    Raises:
        UsageError: there is no such preset. The message lists those that exist.
    """
    path = _presets_folder() / f"{name}.toml"
    known = sorted(found.stem for found in path.parent.glob("*.toml"))
    if name not in known:
        raise UsageError(f"there is no preset {quoted(name)}; there are {', '.join(known)}")
    return load_config(path)


def load_config(path: Path) -> Settings:
    """Load a preset's file or a user's config file (TOML).

    Raises:
        NotFoundError: there is no such file.
        BadFileError: the file cannot be read or is not TOML.
        UsageError: a key is unknown, or a value is out of range.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CONFIG_BYTES + 1)
        if len(content) > _MAX_CONFIG_BYTES:
            raise BadFileError(f"the config file {path} has more than {_MAX_CONFIG_BYTES} bytes")
        settings = msgspec.convert(tomllib.loads(content.decode("utf-8-sig")), Settings)
    except FileNotFoundError as error:
        raise NotFoundError(f"the config file {path} does not exist") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"config file {path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:  # from reading, decoding or parsing
        raise BadFileError(f"the config file {path} cannot be read: {error}") from error
    settings.check(f"config file {path}")
    return settings


def parse_override(text: str) -> Override:
    """Parse an override of the form `REGEX=KEY=VALUE[,KEY=VALUE...]`.

    Raises:
        UsageError: the text has another form, or an unknown key or value.
    """
    parts = _OVERRIDE.fullmatch(text)
    if not parts:
        raise UsageError(
            f"`overrides` {quoted(text)} is not REGEX=codec=NAME or REGEX=bits=NUMBER, "
            "or several such keys separated by commas"
        )
    pairs = [pair.split("=") for pair in parts["pairs"].split(",")]
    values = dict(pairs)
    if len(values) < len(pairs):
        raise UsageError(f"`overrides` {quoted(text)} gives a key twice")
    try:
        return msgspec.convert({"match": parts["match"]} | values, Override, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"`overrides` {quoted(text)}: {error}") from error
