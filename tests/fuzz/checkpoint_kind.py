"""Whole folders of checkpoints: index files, shards, names of tensors and their config."""

import json
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.config_kinds import json_like
from fuzz.draws import Draws
from fuzz.kinds import InputKind, check_notes, need
from fuzz.scratch import SCRATCH
from fuzz.tree_mutations import TreeMutator

from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import BadFileError, NotFoundError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import tensor_shapes

_CONFIG: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 6, "n_positions": 4, "n_embd": 4, "n_layer": 1,
    "n_head": 2, "n_inner": 4, "activation_function": "gelu_new",
}  # fmt: skip
_SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX = "model.safetensors.index.json"
_NAMES = (
    *("transformer.wte.weight", "lm_head.weight", "h.0.attn.bias", "h.0.attn.masked_bias"),
    *("module.wpe.weight", "wpe.weight", "h.0.attn.c_attn.qweight", "lora_A", "score.weight"),
    *("h.1.ln_1.weight", "_orig_mod.transformer.wpe.weight", "../x.safetensors", *_SHARDS),
    *("weight_map", "metadata", "model.safetensors", "/etc/passwd", "x.bin", "..", "F16", "I8"),
)


class CheckpointKind(InputKind):
    """The files of a checkpoint's folder, by their names."""

    name: ClassVar[str] = "checkpoint"
    errors = (BadFileError, NotFoundError)
    share = 1.0

    @cached_property
    def _mutate(self) -> TreeMutator:
        return TreeMutator(_NAMES)

    def case(self, draws: Draws) -> Any:
        """Return the files of a folder, one or two of them changed."""
        files = dict(draws.one_of(_folders()))
        for _ in range(1 + draws.below(2)):
            if not files:
                break
            name = draws.one_of(list(files))
            data, choice = files[name], draws.below(16)
            if choice == 0:
                del files[name]
            elif choice == 1:
                files[draws.one_of((*_SHARDS, "model.safetensors", "pytorch_model.bin"))] = data
            elif choice == 2:
                files[name] = mutated_bytes(draws, data)
            elif name.endswith(".json"):
                files[name] = self._changed_json(draws, data)
            else:
                size = int.from_bytes(data[:8], "little")
                header = self._changed_json(draws, data[8 : 8 + size])
                files[name] = len(header).to_bytes(8, "little") + header + data[8 + size :]
        return files

    def _changed_json(self, draws: Draws, data: bytes) -> bytes:
        try:
            return json.dumps(json_like(self._mutate(draws, json.loads(data)))).encode()
        except ValueError:  # it was changed as bytes before
            return data

    def read(self, case: Any) -> None:
        """Open the folder, and read every tensor."""
        SCRATCH.keep_only(set(case))
        for name, data in case.items():
            SCRATCH.write(name, data)
        checkpoint = open_checkpoint(str(SCRATCH.path), offline=True)
        check_notes(checkpoint.notes)
        shapes = tensor_shapes(checkpoint.config)
        need(set(checkpoint.tensors) == set(shapes), "the tensors are not those of the config")
        for name, shape in shapes.items():
            values = checkpoint.tensors[name]
            need(values.shape == shape and values.dtype == np.float32, f"{name} is wrong")
            need(bool(np.isfinite(values).all()), f"{name} holds what is not finite")


@lru_cache(1)
def _folders() -> list[dict[str, bytes]]:
    """Return the files of small checkpoints, by name."""
    config = json.dumps(_CONFIG).encode()
    shapes = tensor_shapes(Gpt2Config.from_hugging_face(_CONFIG))
    names = list(shapes)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    parts = [_file({name: shapes[name] for name in own}) for own in halves]
    listed = {name: shard for own, shard in zip(halves, _SHARDS, strict=True) for name in own}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": listed}).encode()
    shards = dict(zip(_SHARDS, parts, strict=True))
    prefixed = {f"transformer.{name}": shape for name, shape in shapes.items()}
    head = {**prefixed, "lm_head.weight": shapes["wte.weight"]}
    biasless = {name: own for name, own in shapes.items() if not name.endswith("bias")}
    transposed = {
        name: own[::-1] if name.endswith(("attn.weight", "proj.weight", "fc.weight")) else own
        for name, own in shapes.items()
    }
    return [
        {"config.json": config, "model.safetensors": _file(shapes)},
        {"config.json": config, _INDEX: index, **shards},
        {"config.json": config, **shards},
        {"config.json": config, "model.safetensors": _file(head)},
        {"config.json": config, "model.safetensors": _file(biasless)},
        {"config.json": config, "model.safetensors": _file(transposed)},
    ]


def _file(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Return a safetensors file of these shapes, in float32."""
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(position)
