"""config.json in all dialects, settings as TOML and as overrides, and token files."""

import io
import json
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws
from fuzz.kinds import InputKind, check_notes, need
from fuzz.scratch import SCRATCH
from fuzz.tree_mutations import TreeMutator

from rbe_cli.checkpoint.checked_files import read_json_object
from rbe_cli.compression.settings import load_config, parse_override
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError, UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.config_dialects import dialect_notes
from rbe_cli.model.end_of_text import end_of_text_notes
from rbe_cli.model.tensor_names import tensor_shapes
from rbe_cli.text.token_files import read_token_file

_SIZES: dict[str, Any] = {
    "vocab_size": 100, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2,
}  # fmt: skip
_CONFIGS: tuple[dict[str, Any], ...] = (
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **_SIZES, "n_inner": None}
    | {"activation_function": "gelu_new", "bos_token_id": 5, "eos_token_id": 5},
    {"model_type": "gpt2", **_SIZES, "eos_token_id": [1, 2], "tie_word_embeddings": False}
    | {"layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "n_ctx": 8, "pruned_heads": {}},
    {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "bias": False, "vocab_size": 100}
    | {"dropout": 0.0},
    {"n_vocab": 100, "n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 1},
    {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9}
    | {"max_position_embeddings": 8, "vocab_size": 10, "eos_token_ids": [3, 3, 99], "auto_map": {}},
)
_KEYS = (
    *("model_type", "gpt2", "llama", "quantization_config", "eos_token_ids", "n_ctx", "n_inner"),
    *("reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx", "gelu", "gelu_fast", "swish"),
    *("hidden_size", "block_size", "bias", "activation_function", "add_cross_attention", "n_vocab"),
)


class ConfigKind(InputKind):
    """The objects of config.json and generation_config.json.

    The case is a list of two: objects, or the bytes of the first file.
    """

    name: ClassVar[str] = "config"
    errors = (CheckpointError,)
    share = 5.0

    @cached_property
    def _mutate(self) -> TreeMutator:
        return TreeMutator(_KEYS)

    def case(self, draws: Draws) -> Any:
        """Return a configuration with one to three changes."""
        config: Any = draws.one_of(_CONFIGS)
        generation: Any = {"eos_token_id": [5, 6]} if draws.below(4) == 0 else None
        for _ in range(1 + draws.below(3)):
            config = self._mutate(draws, config)
        if generation is not None and draws.below(2):
            generation = self._mutate(draws, generation)
        if draws.below(16) == 0:
            return [mutated_bytes(draws, json.dumps(config, default=str).encode()), None]
        return [json_like(config), json_like(generation)]

    def read(self, case: Any) -> None:
        """Make a configuration of the objects."""
        raw, generation = case
        if isinstance(raw, bytes):
            raw = read_json_object(SCRATCH.write("config.json", raw))
        if not isinstance(raw, dict) or not isinstance(generation, dict | None):
            raise CheckpointError("this is not an object")  # as `read_json_object` says
        config = Gpt2Config.from_hugging_face(raw, generation)
        config.validate()
        need(1 <= config.n_layer <= 1 << 12, "the number of layers is unbounded")
        if config.n_layer < 4:
            tensor_shapes(config)
        check_notes(dialect_notes(raw))
        check_notes(end_of_text_notes(raw, generation, config.vocab_size))


class SettingsKind(InputKind):
    """A config file in TOML, or the text of an override."""

    name: ClassVar[str] = "settings"
    errors = (BadFileError, UsageError, NotFoundError)
    share = 2.0

    def case(self, draws: Draws) -> Any:
        """Return the bytes of a file, or the text of an override."""
        if draws.below(2):
            text = draws.one_of(_OVERRIDES)
            for _ in range(1 + draws.below(3)):
                text = mutated_bytes(draws, text)
            return text.decode(errors="replace")
        lines = [*_SETTINGS]
        for _ in range(1 + draws.below(3)):
            choice, at = draws.below(4), draws.below(len(lines))
            if choice == 0:
                lines[at] = mutated_bytes(draws, lines[at])
            elif choice == 1:
                del lines[at : at + 1 + draws.below(len(lines))]
            else:
                key, equals, _ = lines[at].partition(b"=")
                value = draws.one_of((*_VALUES, str(draws.integer()).encode()))
                lines[at] = key + equals + value if equals else value
            lines = lines or [b""]
        return b"\n".join(lines)

    def read(self, case: Any) -> None:
        """Load the settings."""
        if isinstance(case, str):
            parse_override(case)
        else:
            load_config(SCRATCH.write("settings.toml", case))


_OVERRIDES = (
    b"h\\.0=codec=fixed,bits=4", b"wte=bits=6.5", b".*=codec=classic,block=16", b"a=codec=float16",
)  # fmt: skip
_SETTINGS = (
    *(b"target_bpw = 4.0", b'codec = "ectcq"', b"states = 16", b"max_integer = 7", b"block = 64"),
    *(b"max_kl_divergence = 0.1", b'objective = "kl"', b"[[override]]", b'match = "wte"'),
    *(b"bits = 4", b'codec = "fixed"', b"[[override]]", b'match = "h.[01]"', b'codec = "float16"'),
)
_VALUES = (
    *(b" 1e400", b" nan", b" -inf", b" 0", b" -1", b' "(a+)+$"', b' "("', b' "["', b" true"),
    *(b" []", b" {}", b' "\\u0000"', b" 8", b" 64", b" 0.999", b' "a{99999999}"', b" 1979-05-27"),
)


class TokenFileKind(InputKind):
    """A file of token ids.

    The case is `[name, bytes]`.
    """

    name: ClassVar[str] = "tokens"
    errors = (BadFileError, UsageError, NotFoundError)
    share = 0.5

    @cached_property
    def _arrays(self) -> list[bytes]:
        found = []
        for array in (np.arange(9), np.arange(12).reshape(3, 4).astype(np.uint16), np.arange(3.0)):
            with io.BytesIO() as file:
                np.save(file, array)
                found.append(file.getvalue())
        return found

    def case(self, draws: Draws) -> Any:
        """Return the name and the bytes of a file."""
        if draws.below(2):
            data = draws.one_of(self._arrays)
            if draws.below(2):
                old, new = draws.one_of(_NPY_WORDS)
                return ["ids.npy", data.replace(old, new)]
            return ["ids.npy", mutated_bytes(draws, data)]
        words = [draws.one_of(_WORDS) for _ in range(1 + draws.below(6))]
        return [
            "ids.txt",
            mutated_bytes(draws, b" ".join(words)) if draws.below(2) else b" ".join(words),
        ]

    def read(self, case: Any) -> None:
        """Read the file, and check the ids."""
        name, data = case
        for sequence in read_token_file(SCRATCH.write(name, data), 50):
            need(sequence.ndim == 1 and sequence.dtype == np.int64, "this is no sequence of ids")
            need(bool(((sequence >= 0) & (sequence < 50)).all()), "an id is outside")
            need(sequence.nbytes <= 64 * len(data), "there are more ids than bytes")


_NPY_WORDS = (
    *((b"<i8", b"|O8"), (b"<i8", b"<u8"), (b"<i8", b"<f8"), (b"(9,)", b"(-9,)"), (b"(9,)", b"()")),
    *(
        (b"(9,)", b"(2305843009213693952,)"),
        (b"(9,)", b"(99999999,)"),
        (b"(3, 4)", b"(65536, 1024)"),
        (b"(9,)", b"(9,1,1,1)"),
        (b"(3, 4)", b"(4611686018427387904, 4)"),
    ),
    *(
        (b"False", b"True"),
        (b"(3, 4)", b"(0, 4)"),
        (b"(3, 4)", b"(3, 0)"),
        (b"<u2", b"|S2"),
        (b"<u2", b">u2"),
    ),
    *((b"'descr'", b"'decsr'"), (b"{", b"(" * 50), (b"\x01\x00", b"\x03\x00"), (b"<u2", b"<m8")),
)
_WORDS = (
    *(
        b"1",
        b"49",
        b"50",
        b"-1",
        b"0",
        b"00",
        b"+1",
        b"1.0",
        b"1e3",
        b"\n",
        b"\r\n",
        b"\t",
        b"\x0c",
    ),
    *(
        b"999999999999999999",
        b"9999999999999999999",
        b"9" * 5000,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xd9\xa1",
    ),
    *(b"\xe2\x80\xa8", b"\x00", b"x", b"1_0"),
)


def json_like(value: Any) -> Any:
    """Return what a JSON file can give: without bytes."""
    if isinstance(value, dict):
        return {str(key): json_like(own) for key, own in value.items()}
    if isinstance(value, list):
        return [json_like(own) for own in value]
    return value.decode("latin1") if isinstance(value, bytes) else value
