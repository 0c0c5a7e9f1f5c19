"""Make a GPT-2 with random weights: speed does not depend on what they are."""

import json
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save_file

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes

GPT2_124M = Gpt2Config(
    vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12, n_inner=3072
)
SPREAD = 0.02  # GPT-2's own at initialisation


def random_tensors(config: Gpt2Config, seed: int) -> dict[str, Float32]:
    """Return every tensor by its canonical name: the same for the same seed and config."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape, np.float32)
        values *= np.float32(SPREAD)
        is_gain = name.endswith(".weight") and not is_matrix(name)
        tensors[name] = values + np.float32(1) if is_gain else values
    return tensors


def write_random(config: Gpt2Config, seed: int, folder: Path) -> None:
    """Write a folder in Hugging Face layout, which appears only when it is whole."""
    unfinished = folder.with_name(f"unfinished-{folder.name}")
    unfinished.mkdir(parents=True, exist_ok=True)
    save_file(random_tensors(config, seed), unfinished / "model.safetensors")
    settings = {"model_type": "gpt2"} | msgspec.to_builtins(config)
    (unfinished / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(folder)
